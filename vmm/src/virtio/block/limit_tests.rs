//! Requests of a drive that has a rate limit.

use super::super::*;
use super::Guest;
use super::tests::{DISCARD, FLUSH, OK, ZEROES, file, header, pattern, range, request};
use crate::api::config::{RateLimiter, TokenBucket};
use crate::virtio::testing::VERSION_1;
use virtio_bindings::virtio_blk::*;

#[test]
fn what_is_beyond_the_limit_waits_and_a_change_lets_it_pass() {
    let limit = |size, refill_time| RateLimiter {
        bandwidth: Some(TokenBucket { size, one_time_burst: Some(512), refill_time }),
        ops: None,
    };
    let under = file(&pattern(4096, 1));
    let limited = Some(limit(1024, 3_600_000));
    let config = BlockConfig { limit: limited, ..BlockConfig::new("a", vec![under], false) };
    let device = Block::new(config).unwrap();
    let throttle = Arc::clone(device.tray().limit());
    let mut guest = Guest::ready(Box::new(device), VERSION_1 | FLUSH);
    for sector in 0..3 {
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, sector, &[], 512).0, OK);
    }
    let (header, data) = (guest.data(&header(VIRTIO_BLK_T_IN, 3)), guest.room(512, true));
    let status = guest.room(1, true);
    guest.send(0, &[header, data, status]);
    assert_eq!((guest.used(0), throttle.throttled()), (None, 1));
    throttle.update(&limit(512, 1)).unwrap();
    guest.run_until(|guest| guest.used(0).is_some());
    assert_eq!(guest.bytes(data, 512), pattern(4096, 1)[3 * 512..4 * 512]);
}

#[test]
fn what_is_left_of_a_limit_goes_to_another_process() {
    let limit = RateLimiter {
        bandwidth: Some(TokenBucket { size: 512, one_time_burst: Some(512), refill_time: 3_600_000 }),
        ops: None,
    };
    let under = file(&pattern(4096, 1));
    let device = || {
        let files = vec![under.try_clone().unwrap()];
        let config = BlockConfig { limit: Some(limit), ..BlockConfig::new("a", files, false) };
        Box::new(Block::new(config).unwrap())
    };
    let mut guest = Guest::ready(device(), VERSION_1 | FLUSH);
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], 512).0, OK);
    let mut guest = guest.migrate(device());
    // The burst is spent; the bucket is full.
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 1, &[], 512).0, OK);
    let (header, data) = (guest.data(&header(VIRTIO_BLK_T_IN, 2)), guest.room(512, true));
    let status = guest.room(1, true);
    guest.send(0, &[header, data, status]);
    assert_eq!(guest.used(0), None);
}

#[test]
fn zeroes_count_for_as_much_as_they_write() {
    let limit = |refill_time| RateLimiter {
        bandwidth: Some(TokenBucket { size: 4096, one_time_burst: None, refill_time }),
        ops: None,
    };
    let under = file(&pattern(64 << 10, 1));
    let limited = Some(limit(3_600_000));
    let config = BlockConfig { limit: limited, ..BlockConfig::new("a", vec![under], false) };
    let device = Block::new(config).unwrap();
    let throttle = Arc::clone(device.tray().limit());
    let mut guest = Guest::ready(Box::new(device), VERSION_1 | DISCARD | ZEROES);
    // A discard moves nothing; more than the bucket ever holds passes when it is full.
    for (kind, sectors) in [(VIRTIO_BLK_T_DISCARD, 64), (VIRTIO_BLK_T_WRITE_ZEROES, 7)] {
        assert_eq!(request(&mut guest, kind, 0, &range(0, sectors, 0), 0).0, OK);
    }
    let zeroes = |guest: &mut Guest| {
        let (header, list) =
            (guest.data(&header(VIRTIO_BLK_T_WRITE_ZEROES, 0)), guest.data(&range(64, 64, 0)));
        let status = guest.room(1, true);
        guest.send(0, &[header, list, status]);
    };
    zeroes(&mut guest);
    assert_eq!((guest.used(0), throttle.throttled()), (None, 1));
    throttle.update(&limit(3_600_000)).unwrap();
    guest.run_until(|guest| guest.used(0).is_some());
    zeroes(&mut guest);
    assert_eq!((guest.used(0), throttle.throttled()), (None, 2));
}
