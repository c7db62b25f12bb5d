//! A guard before the Vorbis decoder. Twenty bytes of a Vorbis header can declare a codebook of 16 MiB, and a
//! header can hold 256 of them: what it declares is added up before it is believed.

/// Every codebook begins with these 24 bits.
const SYNC: u128 = 0x56_4342;

/// Numbers that all codebooks of a file may hold. Encoders in use declare under a tenth of it.
const MAX_VALUES: u128 = 1 << 20;

/// Largest setup header, bytes; usual are 4,000.
const MAX_HEADER: usize = 1 << 16;

/// Whether a decoder can be built from these headers in a few megabytes. Codebooks lie at any bit, so each bit
/// is tried: a chance match could only refuse, and is one in 2²⁴.
pub(super) fn is_modest(headers: &[u8]) -> bool {
    let values = |window: &[u8]| -> u128 {
        let bits = window
            .iter()
            .rev()
            .fold(0, |bits, &byte| bits << 8 | u128::from(byte));
        let at = (0..8)
            .map(|shift| bits >> shift)
            .filter(|bits| bits & 0xff_ffff == SYNC);
        at.map(|bits| (bits >> 24 & 0xffff) * (bits >> 40 & 0xff_ffff))
            .sum()
    };
    headers.len() <= MAX_HEADER && headers.windows(9).map(values).sum::<u128>() <= MAX_VALUES
}

#[cfg(test)]
mod tests {
    use std::{io::Cursor, time::Duration};

    use ogg::{PacketReader, PacketWriteEndInfo, PacketWriter};

    use super::*;
    use crate::media::{audio, decoder::InProcessDecoder};

    /// Numbers in a vector; with one more, a decoder's own arithmetic would overflow first.
    const DIMENSIONS: u32 = 31;

    fn headers() -> [Vec<u8>; 3] {
        let path = format!(
            "{}/../samples/good_morning_vorbis.ogg",
            env!("CARGO_MANIFEST_DIR")
        );
        let mut reader = PacketReader::new(Cursor::new(std::fs::read(path).unwrap()));
        std::array::from_fn(|_| reader.read_packet_expected().unwrap().data)
    }

    /// A setup header in which `books` codebooks of twenty bytes each unfold to 2^`entries_log2` vectors.
    fn forged_setup(books: u32, entries_log2: u32) -> Vec<u8> {
        let mut fields = vec![(books - 1, 8)];
        for _ in 0..books {
            fields.extend([(0x56_4342, 24), (DIMENSIONS, 16), (1 << entries_log2, 24)]);
            // The lengths of the codewords are in order, and all the same.
            fields.extend([
                (1, 1),
                (entries_log2 - 1, 5),
                (1 << entries_log2, entries_log2 + 1),
            ]);
            // Lookup of type 1: minimum, delta, width, sequence, and the one number that there is.
            fields.extend([(1, 4), (0, 32), (0, 32), (0, 4), (0, 1), (1, 1)]);
        }
        fields.extend([(0, 6), (0, 16)]); // time
        fields.extend([(0, 6), (1, 16), (0, 5), (0, 2), (4, 4)]); // floor
        fields.extend([(0, 6), (0, 16), (0, 24), (0, 24), (0, 24), (0, 6), (0, 8), (0, 4)]); // residue
        fields.extend([(0, 6), (0, 16), (0, 4), (0, 24)]); // mapping
        fields.extend([(0, 6), (0, 1), (0, 16), (0, 16), (0, 8), (1, 1)]); // mode
        let bits: Vec<u32> = fields
            .iter()
            .flat_map(|&(value, width)| (0..width).map(move |i| value >> i & 1))
            .collect();
        let mut setup = b"\x05vorbis".to_vec();
        setup.extend(
            bits.chunks(8)
                .map(|byte| byte.iter().rev().fold(0, |b, &bit| b << 1 | bit as u8)),
        );
        setup
    }

    #[test]
    fn a_real_header_is_modest_and_a_bomb_is_not() {
        assert!(is_modest(&headers().concat()));
        assert!(is_modest(&forged_setup(1, 15)));
        assert!(!is_modest(&forged_setup(2, 15)));
        assert!(!is_modest(&forged_setup(1, 17)));
        assert!(!is_modest(&[0; MAX_HEADER + 1]));
        assert!(is_modest(&[]));
    }

    #[tokio::test]
    async fn a_bomb_is_refused_before_it_goes_off() {
        let [ident, comments, _] = headers();
        for (setup, reason) in [
            (forged_setup(1, 4), "audio is empty"),
            (
                forged_setup(256, 17),
                "audio is damaged: malformed stream: vorbis codebooks are too large",
            ),
        ] {
            let mut file = Vec::new();
            let mut writer = PacketWriter::new(&mut file);
            let packets = [ident.clone(), comments.clone(), setup, vec![0]];
            for (index, packet) in packets.into_iter().enumerate() {
                let end = match index {
                    3 => PacketWriteEndInfo::EndStream,
                    _ => PacketWriteEndInfo::EndPage,
                };
                writer.write_packet(packet, 1, end, 0).unwrap();
            }
            let limit = Duration::from_secs(30);
            let why = audio::prepare(&InProcessDecoder, "f", file.into(), limit)
                .await
                .unwrap_err()
                .to_string();
            assert!(why.ends_with(reason), "{why}");
        }
    }
}
