//! Jobs as nobody should write them, put into real queues with raw commands: hashes, metas, payloads and logs made out
//! of the fuzz targets' seeds, the same ones each time.

mod bad;
mod operations;
mod replica;
