#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vial_hostile::memory::ring(bytes));
