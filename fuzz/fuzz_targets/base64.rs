#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| jobs::fuzzing::BASE64.check(input));
