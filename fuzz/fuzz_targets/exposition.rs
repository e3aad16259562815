//! Pages of metrics: every client in one has a delay that is an interval; and a name, whatever is in it, is read as it was
//! written.
#![no_main]

use egw_probe::workbench::report::{Clients, Reading, clients, parse_answer, parse_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (name, page) = input;
    let sound = |read: Clients| {
        assert!(!read.readings.is_empty() || !read.damaged.is_empty());
        for Reading { client, .. } in read.readings {
            assert!(client.delay.lower <= client.delay.upper && client.delay.upper >= 0.0, "{client:?}");
            assert!(client.blackhole_seconds.is_finite() && client.blackhole_seconds >= 0.0, "{client:?}");
        }
    };
    let _ = parse_text(page).and_then(|series| clients(series, "page")).map(sound);
    let _ = parse_answer(page.as_bytes()).and_then(|series| clients(series, "page")).map(sound);

    let escaped = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let line = format!("egw_scale_test_failed_tests_total{{pod=\"{escaped}\"}} 0");
    let read = clients(parse_text(&line).expect(&line), "page").expect("a client");
    assert_eq!(read.readings[0].client.name, name);
});
