#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| backend_worker::fuzzing::DELIVERY.check(input));
