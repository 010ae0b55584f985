//! The table: how a guest breaks the rules, and how its VM ends.

use super::code::Code;
use super::driver::*;

/// How a VM ends.
pub enum End {
    /// The devices work on for a driver that begins anew.
    Survives,
    /// `guest_fault`, and these words are in its detail.
    Fault(&'static str),
    /// Either of the two: the guest may notice or not.
    Either,
}
use End::{Either, Fault, Survives};

/// What it does, how, and its end.
pub type Act = (&'static str, fn(&mut Code), End);

/// Shows what comes of a request that the device is asked to serve.
fn served(code: &mut Code) -> &mut Code {
    code.offer(RING, 0, 0, 1).kick(DISK, 0).wait(RING.used_index(), 1)
}

fn ready(code: &mut Code) -> &mut Code {
    code.set_up(DISK, 0, RING)
}

/// A queue whose part behind `register` lies at `address`.
fn ring_at(code: &mut Code, register: u32, address: u64) {
    code.negotiate(DISK, 0).place(DISK, 0, RING).set64(DISK + register, address);
    code.set(DISK + QUEUE_READY, 1)
        .set(DISK + STATUS, 15)
        .read_request(RING, 0)
        .offer(RING, 0, 0, 1)
        .kick(DISK, 0);
}

/// One descriptor that is a whole request.
fn only(code: &mut Code, address: u64, len: u32, flags: u16) {
    ready(code).header(0, 0).descriptor(RING, 0, address, len, flags, 0).offer(RING, 0, 0, 1).kick(DISK, 0);
}

const RINGS: &str = "not in guest memory";
const TABLE: u32 = 0x48_0000;

pub const ACTS: &[Act] = &[
    // Where rings are.
    ("a descriptor table beyond memory", |code| ring_at(code, DESCRIPTORS, 1 << 40), Fault(RINGS)),
    ("an available ring beyond memory", |code| ring_at(code, AVAILABLE, 0x8000_0000), Fault(RINGS)),
    ("a used ring beyond memory", |code| ring_at(code, USED, 0x200_0000), Fault(RINGS)),
    (
        "a used ring in a device's registers",
        |code| ring_at(code, USED, code.bus().window(DISK).into()),
        Fault(RINGS),
    ),
    (
        "an available ring in the interrupt controller",
        |code| ring_at(code, AVAILABLE, 0xfec0_0000),
        Fault(RINGS),
    ),
    (
        "a descriptor table across the end of memory",
        |code| ring_at(code, DESCRIPTORS, 0x1ff_fff0),
        Fault(RINGS),
    ),
    (
        "a descriptor table across the end of all addresses",
        |code| ring_at(code, DESCRIPTORS, !0xf),
        Fault(RINGS),
    ),
    ("a descriptor table between two descriptors", |code| ring_at(code, DESCRIPTORS, 0x40_0008), Fault("")),
    ("a used ring at an odd address", |code| ring_at(code, USED, 0x40_0801), Fault("")),
    (
        "a used ring over its descriptors",
        |code| {
            ring_at(code, USED, RING.0.into());
            code.prove_life();
        },
        Either,
    ),
    (
        "all rings in one place",
        |code| {
            ring_at(code, USED, RING.available().into());
            code.kick(DISK, 0).prove_life();
        },
        Either,
    ),
    (
        "a used ring over the machine's own tables",
        |code| {
            ring_at(code, USED, 0xe_0000);
            code.prove_life();
        },
        Survives,
    ),
    (
        "a ring of no size",
        |code| {
            code.negotiate(DISK, 0).place(DISK, 0, RING).set(DISK + QUEUE_SIZE, 0).set(DISK + QUEUE_READY, 1);
            code.set(DISK + STATUS, 15).kick(DISK, 0).prove_life();
        },
        Either,
    ),
    (
        "a ring of three, and one of 65535",
        |code| {
            for size in [3, 65535, 0x1_0008, u32::MAX] {
                code.negotiate(DISK, 0)
                    .place(DISK, 0, RING)
                    .set(DISK + QUEUE_SIZE, size)
                    .set(DISK + QUEUE_READY, 1);
                code.set(DISK + STATUS, 15).kick(DISK, 0);
            }
            code.prove_life();
        },
        Either,
    ),
    (
        "a queue made ready twice, elsewhere",
        |code| {
            code.negotiate(DISK, 0).place(DISK, 0, RING).set(DISK + QUEUE_READY, 1);
            code.place(DISK, 0, Ring(0x42_0000))
                .set(DISK + QUEUE_READY, 1)
                .set(DISK + STATUS, 15)
                .prove_life();
        },
        Survives,
    ),
    (
        "a ring moved while it runs",
        |code| {
            ready(code)
                .place(DISK, 0, Ring(0x42_0000))
                .set64(DISK + DESCRIPTORS, 1 << 40)
                .read_request(RING, 0);
            served(code).prove_life();
        },
        Survives,
    ),
    // What is in them.
    (
        "more available entries than the ring has",
        |code| {
            ready(code).read_request(RING, 0).offer(RING, 0, 0, SIZE + 1).kick(DISK, 0);
        },
        Fault("queue 0"),
    ),
    (
        "an available index that goes back",
        |code| {
            ready(code).read_request(RING, 0);
            served(code).offer(RING, 0, 0, 0).kick(DISK, 0);
        },
        Fault("queue 0"),
    ),
    (
        "an available index that wraps, rightly",
        |code| {
            ready(code).read_request(RING, 0);
            code.w64(RING.available() + 4, 0).w64(RING.available() + 12, 0);
            // Twice round a ring of eight; the indices count on.
            for turn in 1..=16 {
                code.w16(RING.available() + 2, turn).kick(DISK, 0).wait(RING.used_index(), turn);
            }
            code.prove_life();
        },
        Survives,
    ),
    (
        "a first descriptor that is not there",
        |code| {
            ready(code).offer(RING, 0, SIZE, 1).kick(DISK, 0);
        },
        Fault("descriptor 8 does not exist"),
    ),
    (
        "a next descriptor that is not there",
        |code| {
            ready(code).descriptor(RING, 0, DATA.into(), 16, NEXT, 0xffff).offer(RING, 0, 0, 1).kick(DISK, 0);
        },
        Fault("descriptor 65535 does not exist"),
    ),
    (
        "a chain that bites its tail",
        |code| {
            ready(code).descriptor(RING, 0, DATA.into(), 16, NEXT, 1).descriptor(
                RING,
                1,
                DATA.into(),
                16,
                NEXT,
                0,
            );
            code.offer(RING, 0, 0, 1).kick(DISK, 0);
        },
        Fault("longer than its queue"),
    ),
    (
        "a buffer in a device's registers",
        |code| only(code, code.bus().window(DISK).into(), 16, WRITE),
        Fault("not guest memory"),
    ),
    (
        "data in a device's registers",
        |code| {
            let registers = code.bus().window(DISK).into();
            ready(code).read_request(RING, 0).descriptor(RING, 1, registers, 512, NEXT | WRITE, 2);
            // VIRTIO_BLK_S_IOERR.
            served(code).expect(DATA + 0x2000, 1).prove_life();
        },
        Survives,
    ),
    (
        "a buffer in the hole below 4 GiB",
        |code| only(code, 0xc000_0000, 4096, WRITE),
        Fault("not guest memory"),
    ),
    (
        "a buffer across the end of memory",
        |code| only(code, 0x1ff_fff8, 16, WRITE),
        Fault("not guest memory"),
    ),
    ("a buffer across the end of all addresses", |code| only(code, !7, 16, WRITE), Fault("not guest memory")),
    ("a buffer of 4 GiB", |code| only(code, 0, u32::MAX, WRITE), Fault("not guest memory")),
    (
        "a readable buffer behind a writable one",
        |code| {
            ready(code).descriptor(RING, 0, DATA.into(), 16, NEXT | WRITE, 1).descriptor(
                RING,
                1,
                DATA.into(),
                16,
                0,
                0,
            );
            code.offer(RING, 0, 0, 1).kick(DISK, 0);
        },
        Fault("follows a device-writable one"),
    ),
    (
        "a request that nobody can answer",
        |code| only(code, DATA.into(), 16, 0),
        Fault("no place for its status"),
    ),
    ("an indirect table of no length", |code| only(code, TABLE.into(), 0, INDIRECT), Fault("indirect")),
    (
        "an indirect table of a descriptor and a half",
        |code| only(code, TABLE.into(), 24, INDIRECT),
        Fault("indirect"),
    ),
    ("an indirect table beyond memory", |code| only(code, 1 << 40, 32, INDIRECT), Fault("not guest memory")),
    (
        "an indirect table with a next descriptor",
        |code| only(code, TABLE.into(), 32, INDIRECT | NEXT),
        Fault("indirect"),
    ),
    (
        "an indirect table in an indirect table",
        |code| {
            code.table_entry(TABLE, TABLE.into(), 32, INDIRECT, 0);
            only(code, TABLE.into(), 32, INDIRECT);
        },
        Fault("holds another"),
    ),
    (
        "an indirect table that bites its tail",
        |code| {
            code.table_entry(TABLE, DATA.into(), 16, NEXT, 1).table_entry(
                TABLE + 16,
                DATA.into(),
                16,
                NEXT,
                0,
            );
            only(code, TABLE.into(), 32, INDIRECT);
        },
        Fault("longer than"),
    ),
    (
        "a disk that is read over its own ring",
        |code| {
            // The disk's second sector is all ones: an available index of 65535.
            ready(code).read_request(RING, 1).descriptor(
                RING,
                1,
                RING.available().into(),
                512,
                NEXT | WRITE,
                2,
            );
            served(code).kick(DISK, 0);
        },
        Fault("queue 0"),
    ),
    // Requests that are none.
    (
        "empty buffers, a header that is too short, a header to write to",
        |code| {
            ready(code);
            for (len, flags) in [(0, 0), (15, 0), (16, WRITE)] {
                code.negotiate(DISK, 0)
                    .place(DISK, 0, RING)
                    .set(DISK + QUEUE_READY, 1)
                    .set(DISK + STATUS, 15);
                code.read_request(RING, 0).descriptor(RING, 0, DATA.into(), len, flags | NEXT, 1);
                served(code);
            }
            code.expect(DATA + 0x2000, 1).prove_life();
        },
        Survives,
    ),
    (
        "unknown requests, and sectors that are not there",
        |code| {
            for (kind, sector) in
                [(0xffff_ffff, 0), (0, u64::MAX), (1, 128), (0, 127), (11, u64::MAX), (13, 1 << 55)]
            {
                ready(code).read_request(RING, 0).header(kind, sector);
                served(code);
            }
            code.prove_life();
        },
        Survives,
    ),
    (
        "a request for more than a device gives",
        |code| {
            ready(code).read_request(RING, 0);
            for index in 1..SIZE - 1 {
                code.descriptor(RING, index, 0x100_0000, 0xf0_0000, NEXT | WRITE, index + 1);
            }
            code.descriptor(RING, SIZE - 1, (DATA + 0x2000).into(), 1, WRITE, 0);
            served(code).expect(DATA + 0x2000, 1).prove_life();
        },
        Survives,
    ),
    // The order of things.
    (
        "features that were not offered, and none at all",
        |code| {
            for (select, features) in [(0, u32::MAX), (1, u32::MAX), (2, u32::MAX), (u32::MAX, 1), (1, 0)] {
                code.negotiate(DISK, 0).set(DISK + STATUS, 0).set(DISK + STATUS, 3);
                code.set(DISK + DRIVER_FEATURES_SELECT, select).set(DISK + DRIVER_FEATURES, features);
                code.set(DISK + STATUS, 11)
                    .place(DISK, 0, RING)
                    .set(DISK + QUEUE_READY, 1)
                    .set(DISK + STATUS, 15);
                code.read_request(RING, 0).offer(RING, 0, 0, 1).kick(DISK, 0);
            }
            code.prove_life();
        },
        Survives,
    ),
    (
        "features changed after FEATURES_OK",
        |code| {
            ready(code)
                .set(DISK + DRIVER_FEATURES_SELECT, 1)
                .set(DISK + DRIVER_FEATURES, 0)
                .set(DISK + STATUS, 11);
            code.read_request(RING, 0);
            served(code).prove_life();
        },
        Survives,
    ),
    (
        "a kick before there is a driver",
        |code| {
            code.kick(DISK, 0).set(DISK + STATUS, 1).kick(DISK, 0).negotiate(DISK, 0).kick(DISK, 0);
            code.place(DISK, 0, RING)
                .set(DISK + QUEUE_READY, 1)
                .read_request(RING, 0)
                .offer(RING, 0, 0, 1)
                .kick(DISK, 0);
            code.set(DISK + STATUS, 15).prove_life();
        },
        Survives,
    ),
    (
        "DRIVER_OK before anything else",
        |code| {
            code.set(DISK + STATUS, 4)
                .set(DISK + STATUS, 15)
                .set(DISK + STATUS, 0xff)
                .kick(DISK, 0)
                .prove_life();
        },
        Survives,
    ),
    (
        "DRIVER_OK twice, and FAILED in between",
        |code| {
            ready(code)
                .set(DISK + STATUS, 15)
                .set(DISK + STATUS, 15 | 128)
                .set(DISK + STATUS, 15)
                .kick(DISK, 0)
                .prove_life();
        },
        Survives,
    ),
    (
        "every status, a thousand times",
        |code| {
            code.times(1000, |code| {
                for status in [1, 3, 11, 15, 7, 2, 64, 128, 0xff, 0x8000_0000, 0] {
                    code.set(DISK + STATUS, status);
                }
            });
            code.prove_life();
        },
        Survives,
    ),
    (
        "a reset while a request is under way, three hundred times",
        |code| {
            code.times(300, |code| {
                ready(code).read_request(RING, 0).offer(RING, 0, 0, 1).kick(DISK, 0).set(DISK + STATUS, 0);
            });
            code.prove_life();
        },
        Survives,
    ),
    (
        "queues that are not there",
        |code| {
            ready(code)
                .kick(DISK, 1)
                .kick(DISK, 77)
                .kick(DISK, u32::MAX)
                .place(DISK, 9, RING)
                .set(DISK + QUEUE_READY, 1);
            code.get(DISK + QUEUE_READY).prove_life();
        },
        Survives,
    ),
    (
        "every register, in every width, with every bit",
        |code| {
            for offset in code.bus().registers() {
                for device in [DISK, SOCKETS, ENTROPY, CONSOLE].map(|device| code.bus().window(device)) {
                    code.w8(device + offset, 0xff)
                        .w16(device + offset, 0xffff)
                        .w32(device + offset, u32::MAX);
                }
            }
            code.prove_life();
        },
        Survives,
    ),
    (
        "accesses across the edges of devices",
        |code| {
            let bus = code.bus();
            let [disk, sockets, console] = [DISK, SOCKETS, CONSOLE].map(|device| bus.window(device));
            for edge in [disk, sockets, console + bus.window_size(), 0xd010_0000, 0xe800_0000, 0xf000_0000] {
                for back in 1..4 {
                    code.r32(edge - back).w32(edge - back, u32::MAX);
                }
            }
            code.prove_life();
        },
        Survives,
    ),
    (
        "writes to a configuration that is read only",
        |code| {
            code.negotiate(DISK, 0);
            let (space, _) = code.bus().place(DISK + CONFIG, 0);
            for offset in 0..0x60 {
                code.w8(space + offset, 0xff).w32(space + offset, u32::MAX);
            }
            code.w32(space + 0xefc, u32::MAX).prove_life();
        },
        Survives,
    ),
    // Storms.
    (
        "a storm of kicks for nothing",
        |code| {
            ready(code).times(20_000, |code| {
                code.kick(DISK, 0);
            });
            code.prove_life();
        },
        Survives,
    ),
    (
        "a storm of requests whose interrupts nobody takes",
        |code| {
            ready(code).read_request(RING, 0).w64(RING.available() + 4, 0).w64(RING.available() + 12, 0);
            code.times(3000, |code| {
                code.increment(RING.available() + 2).kick(DISK, 0);
                code.wait_for_copy(RING.used_index(), RING.available() + 2);
            });
            code.prove_life();
        },
        Survives,
    ),
    (
        "acknowledgements of interrupts that never were",
        |code| {
            ready(code).times(2000, |code| {
                code.set(DISK + INTERRUPT_ACK, u32::MAX).get(DISK + INTERRUPT_STATUS);
            });
            code.prove_life();
        },
        Survives,
    ),
    (
        "a flood of ports where nothing is",
        |code| {
            code.times(5000, |code| {
                code.out(0x80, 1).input(0x3f8).out(0x3f8, b'x').input(0xcf8).out(0xffff, 0);
            });
            code.prove_life();
        },
        Survives,
    ),
    (
        "a flood of addresses where nothing is",
        |code| {
            code.times(5000, |code| {
                code.w32(0xd00f_f000, 1).r32(0xcfff_fff0).w8(0xc000_0000, 1);
            });
            code.prove_life();
        },
        Survives,
    ),
    (
        "games with power, reset and panic registers",
        |code| {
            code.times(1000, |code| {
                code.out(0x505, 2)
                    .input(0x505)
                    .out(0x601, 0xff)
                    .input(0x600)
                    .out(0x600, 0x14)
                    .out(0x602, 0)
                    .out(0x64, 0xd1);
            });
            code.prove_life();
        },
        Survives,
    ),
    (
        "a sleep that was never offered",
        |code| {
            code.out(0x600, 0x24).hang();
        },
        Fault("sleep type 1"),
    ),
    (
        "a flood of sockets' packets with wrong addresses, and no room for answers",
        |code| {
            let transmit = Ring(0x44_0000);
            code.set_up(SOCKETS, 1, transmit).descriptor(transmit, 0, (DATA + 0x4000).into(), 44, 0, 0);
            // From and to somewhere else, of an unknown type.
            code.w64(DATA + 0x4000, 9).w64(DATA + 0x4008, 8).w32(DATA + 0x401c, 0x0001_0009);
            code.w64(transmit.available() + 4, 0).w64(transmit.available() + 12, 0).times(5000, |code| {
                code.increment(transmit.available() + 2).kick(SOCKETS, 1);
            });
            code.prove_life();
        },
        Either,
    ),
    (
        "a flood of connections to the host, and no room for answers",
        |code| {
            let transmit = Ring(0x44_0000);
            code.negotiate(SOCKETS, 0)
                .place(SOCKETS, 1, transmit)
                .set(SOCKETS + QUEUE_READY, 1)
                .set(SOCKETS + STATUS, 15);
            code.descriptor(transmit, 0, (DATA + 0x4000).into(), 44, 0, 0);
            // struct virtio_vsock_hdr: from CID 3 to CID 2, port 52, a stream's request.
            code.w64(DATA + 0x4000, 3).w64(DATA + 0x4008, 2).w32(DATA + 0x4010, 1).w32(DATA + 0x4014, 52);
            code.w32(DATA + 0x4018, 0).w32(DATA + 0x401c, 0x0001_0001).w32(DATA + 0x4024, 1 << 20);
            code.w64(transmit.available() + 4, 0).w64(transmit.available() + 12, 0).times(3000, |code| {
                code.increment(DATA + 0x4010).increment(transmit.available() + 2).kick(SOCKETS, 1);
            });
            code.prove_life();
        },
        Either,
    ),
    (
        "entropy without end",
        |code| {
            let ring = Ring(0x45_0000);
            code.set_up(ENTROPY, 0, ring).descriptor(ring, 0, 0x100_0000, 0xf0_0000, WRITE, 0);
            code.w64(ring.available() + 4, 0).w64(ring.available() + 12, 0).times(3000, |code| {
                code.increment(ring.available() + 2).kick(ENTROPY, 0);
                code.wait_for_copy(ring.used_index(), ring.available() + 2);
            });
            code.prove_life();
        },
        Survives,
    ),
    (
        "entropy that can't be written",
        |code| {
            let ring = Ring(0x45_0000);
            code.set_up(ENTROPY, 0, ring)
                .descriptor(ring, 0, DATA.into(), 16, 0, 0)
                .offer(ring, 0, 0, 1)
                .kick(ENTROPY, 0);
            code.prove_life();
        },
        Either,
    ),
];
