#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| jobs::fuzzing::MEDIA_URL.check(input));
