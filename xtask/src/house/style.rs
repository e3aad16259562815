//! One style of imports: one `use` for each module, braces only at its end, and three groups with one empty line between them:
//! the standard library, other crates, this one (`crate`, `super`, `self`).

use std::collections::BTreeSet;

use quote::ToTokens as _;
use syn::spanned::Spanned;
use syn::{ItemUse, UseTree};

use super::tree::Module;

/// What is wrong with a module's imports: the line, and why.
pub(super) fn faults(module: &Module) -> Vec<(usize, String)> {
    let mut faults = vec![];
    let mut seen = BTreeSet::new();
    for item in &module.uses {
        let line = item.span().start().line;
        let mut fault = |why: &str| faults.push((line, why.to_owned()));
        let (path, leaf) = split(item);
        if matches!(leaf, UseTree::Group(group) if group.items.iter().any(|one| matches!(one, UseTree::Path(_))))
        {
            fault("a path inside braces: one `use` for each module");
        }
        if module.children.contains_key(&path[0]) {
            fault("a module of this one begins with `self::`");
        }
        let attributes = kind(item);
        if !seen.insert((attributes, path)) {
            fault("a second `use` of one module");
        }
    }
    for pair in module.uses.windows(2) {
        let [before, after] = pair else { continue };
        let (line, end) = (first_line(after), before.span().end().line);
        let (was, is) = (group(before), group(after));
        // Something else may stand between the two.
        let empty = line.saturating_sub(end + 1);
        if is < was {
            faults.push((line, "the standard library, other crates, this one: in this order".into()));
        } else if (is == was) != (empty == 0) {
            faults.push((line, "an empty line between groups, and none within".into()));
        }
    }
    faults
}

/// Visibility and attributes: `pub use` stands apart from `use`.
fn kind(item: &ItemUse) -> String {
    let attributes: Vec<String> =
        item.attrs.iter().map(|attribute| attribute.to_token_stream().to_string()).collect();
    format!("{} {}", attributes.concat(), item.vis.to_token_stream())
}

fn first_line(item: &ItemUse) -> usize {
    item.span().start().line
}

fn group(item: &ItemUse) -> u8 {
    match split(item).0[0].as_str() {
        "std" | "core" | "alloc" => 0,
        "crate" | "super" | "self" => 2,
        _ => 1,
    }
}

/// The module, and what is imported of it.
fn split(item: &ItemUse) -> (Vec<String>, &UseTree) {
    let (mut path, mut tree) = (vec![], &item.tree);
    while let UseTree::Path(one) = tree {
        path.push(one.ident.to_string());
        tree = &one.tree;
    }
    if path.is_empty() {
        path.push(String::new());
    }
    (path, tree)
}
