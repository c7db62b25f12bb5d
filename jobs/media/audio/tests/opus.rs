//! Opus is repacked, not decoded.

use super::*;

#[tokio::test]
async fn opus_is_repacked_into_ogg_from_every_container() {
    let mut packets = Vec::new();
    for name in ["good_morning.ogg", "good_morning.webm", "good_morning_opus.mp4"] {
        let audio = prepared(name).await;
        assert_eq!(audio.format, AudioFormat::OggOpus);
        let seconds = audio.duration.as_secs_f64();
        assert!(
            (SENTENCE * 0.99..SENTENCE + 0.03).contains(&seconds),
            "{name} {seconds}"
        );
        packets.push(opus_packets(&audio));
        // Our own file is read again to the same bytes.
        let again = prepare(&InProcessDecoder, "f", audio.bytes.clone(), LIMIT)
            .await
            .unwrap();
        assert_eq!(
            (again.bytes, again.duration),
            (audio.bytes, audio.duration),
            "{name}"
        );
    }
    // One encoder made WebM and MP4 with the same settings.
    assert_eq!(packets[1], packets[2]);
    assert_eq!(
        packets[0],
        ogg_packets(sample("good_morning.ogg")),
        "the coded audio is not touched"
    );
}

/// The audio packets of a file that `prepare` made, after a look at its headers and its end.
pub(super) fn opus_packets(audio: &PreparedAudio) -> Vec<Vec<u8>> {
    let mut reader = ogg::PacketReader::new(Cursor::new(audio.bytes.clone()));
    let head = reader.read_packet_expected().unwrap();
    assert!(head.first_in_stream() && head.last_in_page());
    assert_eq!(&head.data[..10], b"OpusHead\x01\x01", "version and one channel");
    let pre_skip = u64::from(u16::from_le_bytes([head.data[10], head.data[11]]));
    assert!((1..1_000).contains(&pre_skip), "{pre_skip}");
    let tags = reader.read_packet_expected().unwrap();
    assert!(tags.last_in_page() && tags.data.starts_with(b"OpusTags"));
    let mut packets = Vec::new();
    while let Some(packet) = reader.read_packet().unwrap() {
        if packet.last_in_stream() {
            assert_eq!(
                duration_of(packet.absgp_page() - pre_skip, 48_000),
                audio.duration
            );
        }
        packets.push(packet.data);
    }
    packets
}

fn ogg_packets(bytes: Bytes) -> Vec<Vec<u8>> {
    let mut reader = ogg::PacketReader::new(Cursor::new(bytes));
    std::iter::from_fn(|| reader.read_packet().unwrap())
        .map(|p| p.data)
        .skip(2)
        .collect()
}
