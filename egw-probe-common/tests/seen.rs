//! The duplicate filter: a crossing counts once, a retransmission counts again, and what is forgotten counts too.

use egw_probe_common::{
    address::Address,
    packet::Syn,
    seen::{Bucket, Sighting, WINDOW_NS, bucket, signature},
};

const SECOND: u64 = 1_000_000_000;
const PORT: u32 = 4;
const BRIDGE: u32 = 5;

fn syn(source_port: u16, sequence: u32) -> Syn {
    Syn {
        source: Address::v4([192, 0, 2, 9]),
        destination: Address::v4([198, 51, 100, 1]),
        sequence,
        source_port,
        tcp_at: 34,
    }
}

#[test]
fn a_syn_that_crosses_two_interfaces_counts_once() {
    let mut bucket = Bucket::default();
    let signature = signature(&syn(1, 7), 0);
    assert_eq!(bucket.observe(signature, PORT, 10 * SECOND), Sighting::Counts);
    assert_eq!(bucket.observe(signature, BRIDGE, 10 * SECOND + 3_000), Sighting::Duplicate);
    assert_eq!(bucket.observe(signature, BRIDGE + 1, 10 * SECOND + 5_000), Sighting::Duplicate);
}

#[test]
fn a_retransmission_counts_again_and_its_crossing_does_not() {
    let mut bucket = Bucket::default();
    let signature = signature(&syn(1, 7), 0);
    for second in [10, 11, 13, 17] {
        assert_eq!(bucket.observe(signature, PORT, second * SECOND), Sighting::Counts);
        assert_eq!(bucket.observe(signature, BRIDGE, second * SECOND + 2_000), Sighting::Duplicate);
    }
}

#[test]
fn a_retransmission_counts_however_soon_when_it_comes_the_same_way() {
    let mut bucket = Bucket::default();
    let signature = signature(&syn(1, 7), 0);
    assert_eq!(bucket.observe(signature, PORT, SECOND), Sighting::Counts);
    assert_eq!(bucket.observe(signature, PORT, SECOND + 1), Sighting::Counts);
}

#[test]
fn a_retransmission_by_another_way_counts_after_the_window() {
    let mut bucket = Bucket::default();
    let signature = signature(&syn(1, 7), 0);
    assert_eq!(bucket.observe(signature, PORT, SECOND), Sighting::Counts);
    assert_eq!(bucket.observe(signature, BRIDGE, SECOND + WINDOW_NS + 2_048), Sighting::Counts);
}

#[test]
fn four_syns_share_a_bucket_and_the_fifth_replaces_the_oldest() {
    let mut bucket = Bucket::default();
    for (i, signature) in [11, 13, 15, 17, 19].into_iter().enumerate() {
        assert_eq!(bucket.observe(signature, PORT, SECOND + i as u64 * 10_000), Sighting::Counts);
    }
    let later = SECOND + 60_000;
    for (signature, expected) in [
        (13, Sighting::Duplicate),
        (15, Sighting::Duplicate),
        (17, Sighting::Duplicate),
        (19, Sighting::Duplicate),
    ] {
        assert_eq!(bucket.observe(signature, BRIDGE, later), expected, "signature {signature}");
    }
    // Forgotten, so counted: never the other way round.
    assert_eq!(bucket.observe(11, BRIDGE, later), Sighting::Counts);
}

#[test]
fn signatures_and_buckets_differ_with_every_part_of_a_syn_and_with_the_seed() {
    let base = syn(1, 7);
    let others = [
        syn(2, 7),
        syn(1, 8),
        Syn { source: Address::v4([192, 0, 2, 10]), ..base },
        Syn { destination: Address::v4([198, 51, 100, 2]), ..base },
        Syn { source: Address::v6([7; 16]), ..base },
    ];
    for other in others {
        assert_ne!(signature(&other, 1), signature(&base, 1), "{other:?}");
    }
    assert_ne!(signature(&base, 1), signature(&base, 2));
}

#[test]
fn neighbouring_syns_spread_over_the_buckets() {
    let mut load = vec![0u32; egw_probe_common::seen::BUCKETS as usize];
    for sequence in 0..16_384u32 {
        load[bucket(signature(&syn(40_000, sequence), 42)) as usize] += 1;
    }
    // One each on average; a good hash puts no more than a handful into one.
    assert!(load.iter().max() < Some(&10), "{:?} in one bucket", load.iter().max());
}
