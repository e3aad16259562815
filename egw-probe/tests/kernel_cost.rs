use aya::programs::{TestRun, TestRunOptions};
use egw_probe::target::kernel::object;
use std::num::NonZeroU16;
#[test]
fn cost() {
    let s = object::Settings::new(NonZeroU16::new(1337).unwrap(), vec!["10.0.0.0/8".parse().unwrap()]);
    match object::load(&s) {
        Ok((_e, p)) => println!("{p:?}"),
        Err(e) => panic!("{e}"),
    }
}
