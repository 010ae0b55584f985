//! Many at a time: floods, limits, turns.

use super::*;

#[test]
fn a_flood_without_receive_buffers_is_not_listened_to() {
    let mut pair = Pair::new();
    // The guest never takes its receive buffers back: the 16 it gave are all there are.
    for port in 0..2000 {
        let bytes = header(Operation::Request, port, 7).encode();
        pair.guest.memory.write_slice(&bytes, GuestAddress(pair.out.address)).unwrap();
        let buffer = crate::virtio::testing::Buffer { len: HEADER_LEN as u32, ..pair.out };
        pair.guest.send(1, &[buffer]);
        if pair.guest.used(1).is_none() {
            // It listens again when it is listened to.
            assert!(port > 200, "{port}");
            let heard = std::iter::from_fn(|| pair.hear()).count();
            assert!(heard > 200, "{heard}");
            assert!(pair.guest.used(1).is_some());
            return;
        }
    }
    panic!("resets pile up");
}

#[test]
fn those_that_never_say_a_port_make_room_for_others() {
    let mut pair = Pair::new();
    let mut silent: Vec<UnixStream> = Vec::new();
    for _ in 0..MAX_HANDSHAKES {
        silent.push(pair.dial());
        pair.guest.run();
    }
    assert!(silent.iter_mut().all(|stream| !is_closed(stream)));
    let (mut served, _) = pair.host_connects(1);
    let mut more = [pair.dial(), pair.dial()];
    pair.guest.run();
    let closed = silent.iter_mut().filter_map(|stream| is_closed(stream).then_some(())).count();
    // One for him who was served and one for the last; where he was is room for the other.
    assert_eq!(closed, 2);
    assert!(silent[..2].iter_mut().all(is_closed));
    assert!(!is_closed(&mut served) && more.iter_mut().all(|stream| !is_closed(stream)));
}

#[test]
fn many_that_say_their_port_at_once_are_all_served() {
    let mut pair = Pair::new();
    // More at once than may be undecided, let in before the first line is read.
    let mut streams: Vec<UnixStream> = (0..2 * MAX_HANDSHAKES).map(|_| pair.dial()).collect();
    for stream in &mut streams {
        stream.write_all(b"CONNECT 9\n").unwrap();
    }
    let mut asked = 0;
    while let Some(operation) = pair.hear_operation() {
        assert_eq!(operation, Operation::Request);
        asked += 1;
    }
    assert_eq!(asked, streams.len());
    assert!(streams.iter_mut().all(|stream| !is_closed(stream)));
}

/// Lets this process have as many descriptors as it may; how many.
#[allow(unsafe_code)]
fn most_descriptors() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls write and read one rlimit.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

#[test]
fn thousands_talk_at_a_time_and_the_next_is_turned_away() {
    // Both ends are ours; other tests need some too.
    let count = MAX_CONNECTIONS.min((most_descriptors() - 500) / 2);
    let mut pair = Pair::new();
    let mut streams: Vec<_> = (0..count as u32).map(|port| pair.host_connects(port)).collect();
    if count == MAX_CONNECTIONS {
        let mut one_more = pair.dial();
        assert_eq!(pair.hear_operation(), None);
        assert!(is_closed(&mut one_more));
    }
    // Each its own bytes, both ways.
    for (port, (stream, host)) in (0..).zip(&mut streams) {
        stream.write_all(&u32::to_le_bytes(port)).unwrap();
        pair.send(Operation::Data, port, *host, 0, format!("from {port}").as_bytes());
        assert_eq!(read(stream), format!("from {port}").into_bytes());
    }
    let mut heard = vec![false; count];
    while let Some((header, data)) = pair.hear() {
        if header.operation == Some(Operation::Data) {
            assert_eq!(data, header.dst_port.to_le_bytes());
            heard[header.dst_port as usize] = true;
        }
    }
    assert!(heard.iter().all(|heard| *heard));
    assert!(pair.guest.faults().is_empty());
    // One that leaves makes room.
    drop(streams.pop());
    while pair.hear().is_some() {}
    pair.send(Operation::Reset, count as u32 - 1, FIRST_HOST_PORT + count as u32 - 1, 0, &[]);
    pair.host_connects(7);
}

#[test]
fn buffers_get_small_when_there_are_many_connections() {
    let mut pair = Pair::new();
    let count = ROOMY.min((most_descriptors() - 500) / 2);
    let _streams: Vec<_> = (0..count as u32).map(|port| pair.host_connects(port)).collect();
    if count < ROOMY {
        return;
    }
    let listener = pair.listen(80);
    pair.send(Operation::Request, 1, 80, 0, &[]);
    assert_eq!(pair.hear().unwrap().0.buf_alloc, SMALL_BUFFER);
    // The host program reads nothing: a packet more than fits is one too many.
    let _stream = listener.accept().unwrap();
    let mut sent = 0;
    loop {
        pair.send(Operation::Data, 1, 80, 0, &[7; 4096]);
        let said: Vec<_> = std::iter::from_fn(|| pair.hear_operation()).collect();
        if said.contains(&Operation::Reset) {
            break;
        }
        sent += 4096;
        // What the socket itself holds comes on top.
        assert!(sent < 1 << 20);
    }
}

#[test]
fn everyone_gets_a_turn() {
    let mut pair = Pair::new();
    let listener = pair.listen(80);
    let mut greedy = pair.guest_connects(&listener, 1, 80);
    let mut modest = pair.guest_connects(&listener, 2, 80);
    greedy.write_all(&[0; 60_000]).unwrap();
    modest.write_all(b"hello").unwrap();
    let ports: Vec<u32> = (0..4).map(|_| pair.hear().unwrap().0.dst_port).collect();
    assert!(ports.contains(&2), "{ports:?}");
}
