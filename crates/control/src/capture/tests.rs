use super::*;

#[test]
fn memory_is_bounded_for_every_length_that_can_be_asked_for() {
    use model::api::{CAPTURE_SNAP_MAX, CAPTURE_SNAP_MIN};
    for snap in CAPTURE_SNAP_MIN..=CAPTURE_SNAP_MAX {
        let snap = snap as usize;
        let count = copies(snap);
        // What a burst makes of one frame has room.
        assert!(count > 1 + worker::BURST && count <= COPIES_MAX && count * snap <= COPIES_BYTES, "{snap}");
    }
}

#[test]
fn what_is_captured_is_said() {
    let all = CaptureRequest { snap: 64, ..CaptureRequest::default() };
    assert_eq!(all.to_string(), "all frames");
    let wanted = CaptureRequest {
        service: Some("web".to_owned()),
        reason: Some(DropReason::NoService),
        client: Some("2001:db8::7".parse().unwrap()),
        count: Some(7),
        snap: 64,
    };
    assert_eq!(
        wanted.to_string(),
        "7 frames of service web from and to 2001:db8::7 that end with no_service"
    );
}
