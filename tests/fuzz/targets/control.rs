#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vial_hostile::control::control(bytes));
