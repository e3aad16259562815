"""Validates the manifests on standard input strictly: Kubernetes' own kinds against its schemas (kubernetes-validate from
PyPI, which brings PyYAML and jsonschema), the two custom ones against the schemas beside this file. Says what is wrong with
which, and exits with 1."""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

# The oldest that has a Job's backoffLimitPerIndex without a feature gate, and the newest that the validator knows.
VERSIONS = ["1.29", kubernetes_validate.latest_version()]

CUSTOM = {
    json.loads(text)["properties"]["kind"]["const"]: json.loads(text)
    for text in (path.read_text() for path in pathlib.Path(__file__).parent.glob("*.json"))
}


def faults(manifest):
    schema = CUSTOM.get(manifest["kind"])
    if schema:
        for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest):
            yield f"{error.json_path}: {error.message}"
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"


manifests = [manifest for manifest in yaml.safe_load_all(sys.stdin) if manifest]
wrong = 0
for manifest in manifests:
    name = f"{manifest['kind']}/{manifest['metadata']['name']}"
    for fault in faults(manifest):
        wrong += 1
        print(f"{name}: {fault}")
print(f"{len(manifests)} manifests, {wrong} faults")
sys.exit(1 if wrong or not manifests else 0)
