//! The embedded object, taken apart without any right: programs, maps, globals, licence.

use std::collections::BTreeMap;

use aya_obj::generated::bpf_map_type;
use aya_obj::{Object, ProgramSection};
use egw_probe::workbench::observer::OBJECT;
use egw_probe_common::address::Address;
use egw_probe_common::event::{Counters, OwnFew, SourceRecord};
use egw_probe_common::seen::{BUCKETS, Bucket};
use egw_probe_common::tag::{CLIENTS, SLOTS, TagRecord, Waiting};

#[test]
fn every_entry_point_has_the_section_that_makes_it_what_it_is() {
    let object = Object::parse(OBJECT).unwrap();
    let sections: BTreeMap<_, _> = object
        .programs
        .iter()
        .map(|(name, program)| {
            let kind = match &program.section {
                ProgramSection::Xdp { frags: true, .. } => "xdp.frags",
                ProgramSection::Xdp { frags: false, .. } => "xdp",
                ProgramSection::SchedClassifier => "classifier",
                other => panic!("{name} is a {other:?}"),
            };
            (name.as_str(), kind)
        })
        .collect();
    let expected = [
        ("egw_tc", "classifier"),
        ("egw_tc_l3", "classifier"),
        ("egw_xdp", "xdp"),
        ("egw_xdp_frags", "xdp.frags"),
        ("egw_xdp_l3", "xdp"),
        ("egw_xdp_l3_frags", "xdp.frags"),
    ];
    assert_eq!(sections, BTreeMap::from(expected));
}

#[test]
fn every_map_has_the_type_and_sizes_that_userspace_takes_it_for() {
    let object = Object::parse(OBJECT).unwrap();
    let lpm = |data: usize| 4 + data;
    let address = size_of::<Address>();
    for (name, kind, key, value, entries) in [
        ("ALLOWED_V4", bpf_map_type::BPF_MAP_TYPE_LPM_TRIE, lpm(4), 4, 4096),
        ("ALLOWED_V6", bpf_map_type::BPF_MAP_TYPE_LPM_TRIE, lpm(16), 4, 4096),
        ("OWN", bpf_map_type::BPF_MAP_TYPE_HASH, address, 4, 65_536),
        ("OWN_FEW", bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, size_of::<OwnFew>(), 1),
        ("COUNTERS", bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, 4, size_of::<Counters>(), 1),
        ("SOURCES", bpf_map_type::BPF_MAP_TYPE_LRU_HASH, address, size_of::<SourceRecord>(), 65_536),
        ("SEEN", bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, size_of::<Bucket>(), BUCKETS),
        ("TAGS", bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, size_of::<TagRecord>(), CLIENTS),
        ("WAITING", bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, size_of::<Waiting>(), CLIENTS * SLOTS),
        ("EVENTS", bpf_map_type::BPF_MAP_TYPE_RINGBUF, 0, 0, 1 << 22),
    ] {
        let map = object.maps.get(name).unwrap_or_else(|| panic!("no map {name}"));
        assert_eq!(
            (map.map_type(), map.key_size() as usize, map.value_size() as usize, map.max_entries()),
            (kind as u32, key, value, entries),
            "{name}"
        );
        // The kernel keeps fifteen bytes; what goes beyond would not be found again by name.
        assert!(name.len() <= 15);
    }
}

#[test]
fn every_global_is_there_to_be_patched() {
    let object = Object::parse(OBJECT).unwrap();
    for (name, size) in
        [("LISTEN_PORT", 2), ("SEEN_SEED", 8), ("TAG_CLIENTS", 2), ("TAG_KEY", 1), (aya_log::LEVEL, 1)]
    {
        let mut object = object.clone();
        let value = vec![0u8; size];
        object
            .patch_map_data([(name, (value.as_slice(), true))].into())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn the_licence_is_compatible_with_the_helpers() {
    assert_eq!(Object::parse(OBJECT).unwrap().license.as_bytes(), b"Dual MIT/GPL");
}
