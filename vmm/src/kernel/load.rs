//! Brings kernel and initrd into guest memory while the rest of the machine is being made.
//!
//! Loading is a list of pieces that any number of threads take from; the loader thread begins, the VMM thread helps once
//! it has nothing else to do. In the testbed as on real machines it is the longest step before the first KVM_RUN.

use super::elf::{self, Elf, MAX_NOTES};
use super::image::{self, Kernel, KernelError};
use crate::api::config::{BootProtocol, KernelLoad};
use crate::arch::{boot::Entry, boot::Range, layout};
use crate::memory::GuestMemory;
use crate::memory::{self, MemoryError, PAGE};
use linux_loader::loader::bootparam::setup_header;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// Size of a piece: a huge page, so that two threads never fault on the same one.
const PIECE: u64 = 2 << 20;

/// Why kernel or initrd could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be looked at.
    #[error("could not look at {what}")]
    Stat {
        /// Which file.
        what: &'static str,
        /// errno.
        #[source]
        source: std::io::Error,
    },
    /// Not a plain file.
    #[error("{0} is not a regular file")]
    NotAFile(&'static str),
    /// The kernel's headers are unusable.
    #[error("the kernel can't be booted")]
    Kernel(#[from] KernelError),
    /// PVH was asked for, but the kernel has no note.
    #[error(
        "the kernel has no PVH entry (a vmlinux with CONFIG_PVH has one, a bzImage never); leave `entry` out or set it to \"linux64\""
    )]
    NoPvhEntry,
    /// The initrd is too big.
    #[error(
        "the initrd of {initrd} bytes does not fit between the kernel's end {kernel_end:#x} and the end of low memory {ram_end:#x}; raise mem_size_mib"
    )]
    InitrdTooBig {
        /// Bytes.
        initrd: u64,
        /// First free address.
        kernel_end: u64,
        /// End of RAM below the hole.
        ram_end: u64,
    },
    /// Contents could not be brought in.
    #[error("could not load {what}")]
    Contents {
        /// Which file.
        what: &'static str,
        /// What went wrong.
        #[source]
        source: MemoryError,
    },
    /// The loader thread died.
    #[error("the loader thread ended without an answer")]
    Lost,
}

/// What to load, and how.
#[derive(Debug)]
pub struct Source {
    /// Kernel.
    pub kernel: File,
    /// Initial RAM file system.
    pub initrd: Option<File>,
    /// Read or map.
    pub load: KernelLoad,
    /// Which entry; `None` prefers PVH.
    pub protocol: Option<BootProtocol>,
    /// RAM in bytes.
    pub memory_size: u64,
}

/// What is loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loaded {
    /// Where the boot vCPU starts.
    pub entry: Entry,
    /// A bzImage's own header.
    pub header: Option<setup_header>,
    /// Where the initrd is.
    pub initrd: Option<Range>,
}

/// A piece of a file and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    what: &'static str,
    offset: u64,
    address: u64,
    len: u64,
    map: bool,
}

#[derive(Debug)]
struct Plan {
    source: Source,
    pieces: Vec<Piece>,
    loaded: Loaded,
    next: AtomicUsize,
}

fn file_len(file: &File, what: &'static str) -> Result<u64, LoadError> {
    let metadata = file.metadata().map_err(|source| LoadError::Stat { what, source })?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(LoadError::NotAFile(what)) }
}

/// As many bytes from `offset` as there are, up to `len`.
fn read_head(file: &File, offset: u64, len: usize) -> Result<Vec<u8>, LoadError> {
    let mut head = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut head[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => {
                let source = MemoryError::Read { offset, source };
                return Err(LoadError::Contents { what: "the kernel", source });
            }
        }
    }
    head.truncate(done);
    Ok(head)
}

impl Plan {
    fn new(source: Source) -> Result<Self, LoadError> {
        let ram_end = layout::low_ram_end(source.memory_size);
        let len = file_len(&source.kernel, "the kernel")?;
        let head = read_head(&source.kernel, 0, elf::HEAD)?;
        let kernel = image::parse(&head, len, &(layout::HIGH_RAM..ram_end))?;
        let (entry, header, initrd_end) = match &kernel {
            Kernel::Elf(elf) => (choose_entry(&source, elf)?, None, ram_end),
            Kernel::BzImage(_) if source.protocol == Some(BootProtocol::Pvh) => {
                return Err(LoadError::NoPvhEntry);
            }
            Kernel::BzImage(image) => {
                let entry = Entry { address: image.entry, protocol: BootProtocol::Linux64 };
                (entry, Some(image.header), ram_end.min(image.initrd_end))
            }
        };
        let mut pieces = Vec::new();
        for segment in kernel.segments() {
            let whole = Piece {
                what: "the kernel",
                offset: segment.offset,
                address: segment.address,
                len: segment.file_len,
                map: false,
            };
            match source.load {
                KernelLoad::Read => split(whole, &mut pieces),
                KernelLoad::Map => mapped(whole, &mut pieces),
            }
        }
        let initrd = match &source.initrd {
            Some(file) => Some(place_initrd(file, kernel.end(), initrd_end, &mut pieces)?),
            None => None,
        };
        Ok(Self { source, pieces, loaded: Loaded { entry, header, initrd }, next: AtomicUsize::new(0) })
    }

    /// Takes pieces until none are left.
    fn work(&self, memory: &GuestMemory) -> Result<(), LoadError> {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let Piece { what, offset, address, len, map } = *piece;
            let file = match (what, &self.source.initrd) {
                ("the initrd", Some(initrd)) => initrd,
                _ => &self.source.kernel,
            };
            let len = usize::try_from(len).expect("a piece lies within RAM, which was mapped");
            let bring = if map { memory::map_into } else { memory::read_into };
            bring(memory, file, offset, address, len)
                .map_err(|source| LoadError::Contents { what, source })?;
        }
        Ok(())
    }
}

fn choose_entry(source: &Source, elf: &Elf) -> Result<Entry, LoadError> {
    let linux64 = Entry { address: elf.entry, protocol: BootProtocol::Linux64 };
    if source.protocol == Some(BootProtocol::Linux64) {
        return Ok(linux64);
    }
    let notes = match &elf.notes {
        Some(range) => {
            let len = (range.end - range.start).min(MAX_NOTES);
            read_head(&source.kernel, range.start, usize::try_from(len).unwrap_or(0))?
        }
        None => Vec::new(),
    };
    match elf.pvh_entry(&notes) {
        Some(address) => Ok(Entry { address, protocol: BootProtocol::Pvh }),
        None if source.protocol == Some(BootProtocol::Pvh) => Err(LoadError::NoPvhEntry),
        None => Ok(linux64),
    }
}

/// Cuts at multiples of a piece's size in guest memory.
fn split(whole: Piece, pieces: &mut Vec<Piece>) {
    let (mut at, end) = (whole.address, whole.address + whole.len);
    while at < end {
        let next = (at + 1).next_multiple_of(PIECE).min(end);
        pieces.push(Piece {
            address: at,
            offset: whole.offset + (at - whole.address),
            len: next - at,
            ..whole
        });
        at = next;
    }
}

/// Maps whole pages and reads what is left at both edges, so that no byte of the file outside of the segment gets in: what
/// follows a segment in memory must be zero.
fn mapped(whole: Piece, pieces: &mut Vec<Piece>) {
    let (start, end) = (whole.address.next_multiple_of(PAGE), (whole.address + whole.len) / PAGE * PAGE);
    if whole.address % PAGE != whole.offset % PAGE || start >= end {
        return split(whole, pieces);
    }
    let part = |from: u64, to: u64, map: bool| Piece {
        address: from,
        offset: whole.offset + (from - whole.address),
        len: to - from,
        map,
        ..whole
    };
    let edges = [
        part(whole.address, start, false),
        part(start, end, true),
        part(end, whole.address + whole.len, false),
    ];
    pieces.extend(edges.into_iter().filter(|piece| piece.len > 0));
}

/// At the end of low memory, where early allocations of the kernel are least in its way.
fn place_initrd(
    file: &File,
    kernel_end: u64,
    ram_end: u64,
    pieces: &mut Vec<Piece>,
) -> Result<Range, LoadError> {
    let what = "the initrd";
    let len = file_len(file, what)?;
    let start = ram_end
        .checked_sub(len)
        .map(|start| start / PAGE * PAGE)
        .filter(|start| *start >= kernel_end)
        .ok_or(LoadError::InitrdTooBig { initrd: len, kernel_end, ram_end })?;
    split(Piece { what, offset: 0, address: start, len, map: false }, pieces);
    Ok(Range { start, len })
}

type Job = (Source, GuestMemory);

/// The loader thread.
#[derive(Debug)]
pub struct Loader {
    job: Sender<Job>,
    plan: Arc<OnceLock<Plan>>,
    result: Receiver<Result<(), LoadError>>,
    thread: JoinHandle<()>,
}

impl Loader {
    /// Starts the thread; it calls `confine` and, if that says so, waits for a job.
    pub fn spawn(confine: impl FnOnce() -> bool + Send + 'static) -> std::io::Result<Self> {
        let (job, jobs) = channel::<Job>();
        let (answer, result) = channel();
        let plan = Arc::new(OnceLock::new());
        let shared = Arc::clone(&plan);
        let thread = std::thread::Builder::new().name("loader".into()).spawn(move || {
            if !confine() {
                return;
            }
            if let Ok((source, memory)) = jobs.recv() {
                let done = Plan::new(source).and_then(|plan| shared.get_or_init(|| plan).work(&memory));
                // Nobody listens any more only if the start has failed elsewhere.
                let _ = answer.send(done);
            }
        })?;
        Ok(Self { job, plan, result, thread })
    }

    /// Gives it its job.
    pub fn start(&self, source: Source, memory: GuestMemory) -> Result<(), LoadError> {
        self.job.send((source, memory)).map_err(|_| LoadError::Lost)
    }

    /// Helps until everything is loaded.
    pub fn finish(self, memory: &GuestMemory) -> Result<Loaded, LoadError> {
        // Without a plan yet the thread is still reading headers, which nobody can help with.
        if let Some(plan) = self.plan.get() {
            plan.work(memory)?;
        }
        self.result.recv().map_err(|_| LoadError::Lost)??;
        self.thread.join().map_err(|_| LoadError::Lost)?;
        Ok(self.plan.get().ok_or(LoadError::Lost)?.loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::elf::tests::kernel;
    use std::io::Write;
    use vm_memory::{Bytes, GuestAddress};

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn source(kernel: &[u8], initrd: Option<&[u8]>, load: KernelLoad) -> Source {
        let initrd = initrd.map(file);
        Source { kernel: file(kernel), initrd, load, protocol: None, memory_size: 16 << 20 }
    }

    fn load(source: Source) -> Result<(Loaded, GuestMemory), LoadError> {
        let memory = memory::allocate(source.memory_size, &memory::Recipe::DEFAULT).unwrap();
        let loader = Loader::spawn(|| true).unwrap();
        loader.start(source, memory.clone())?;
        Ok((loader.finish(&memory)?, memory))
    }

    fn bytes_at(memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    #[test]
    fn read_and_mapped_kernels_look_the_same_and_end_in_zeros() {
        let code: Vec<u8> = (0..(5 << 20) + 77).map(|n: u32| (n % 253) as u8).collect();
        let image = kernel(&code, b"notes must not show behind the segment");
        for how in [KernelLoad::Read, KernelLoad::Map] {
            let (loaded, memory) = load(source(&image, Some(b"cpio"), how)).unwrap();
            assert_eq!(bytes_at(&memory, 0x10_0000, code.len()), code);
            assert_eq!(bytes_at(&memory, 0x10_0000 + code.len() as u64, 64), [0; 64]);
            let initrd = loaded.initrd.unwrap();
            assert_eq!((bytes_at(&memory, initrd.start, 4), initrd.len), (b"cpio".to_vec(), 4));
            assert_eq!(loaded.entry, Entry { address: 0x10_0000, protocol: BootProtocol::Linux64 });
        }
    }

    #[test]
    fn the_pvh_note_is_preferred_and_its_lack_is_told() {
        let mut note = Vec::new();
        [4u32, 4, 18].iter().for_each(|word| note.extend(word.to_le_bytes()));
        note.extend(b"Xen\0");
        note.extend(0x10_0002u32.to_le_bytes());
        let (loaded, _) = load(source(&kernel(b"code", &note), None, KernelLoad::Read)).unwrap();
        assert_eq!(loaded.entry, Entry { address: 0x10_0002, protocol: BootProtocol::Pvh });
        let mut without = source(&kernel(b"code", b""), None, KernelLoad::Read);
        without.protocol = Some(BootProtocol::Pvh);
        assert!(matches!(load(without), Err(LoadError::NoPvhEntry)));
    }

    #[test]
    fn a_bzimage_is_loaded_without_its_set_up_code_and_leaves_room_to_unpack_itself() {
        let image = crate::kernel::bzimage::tests::image(&[0x90; 0x400]);
        let source = |initrd| Source { memory_size: 32 << 20, ..source(&image, initrd, KernelLoad::Map) };
        let (loaded, memory) = load(source(Some(b"cpio"))).unwrap();
        assert_eq!(loaded.entry, Entry { address: 0x100_0200, protocol: BootProtocol::Linux64 });
        assert_eq!(bytes_at(&memory, 0x100_0000, 0x401), [[0x90; 0x400].as_slice(), &[0]].concat());
        assert!(loaded.header.is_some() && loaded.initrd.unwrap().start >= 0x120_0000);
        let pvh = Source { protocol: Some(BootProtocol::Pvh), ..source(None) };
        assert!(matches!(load(pvh), Err(LoadError::NoPvhEntry)));
    }

    #[test]
    fn an_initrd_too_big_for_memory_says_so() {
        let mut big = source(&kernel(b"code", b""), None, KernelLoad::Read);
        let initrd = tempfile::tempfile().unwrap();
        initrd.set_len(15 << 20).unwrap();
        big.initrd = Some(initrd);
        assert!(matches!(load(big), Err(LoadError::InitrdTooBig { .. })));
    }

    #[test]
    fn a_folder_is_not_a_kernel() {
        let mut folder = source(b"", None, KernelLoad::Read);
        folder.kernel = File::open("/").unwrap();
        assert!(matches!(load(folder), Err(LoadError::NotAFile("the kernel"))));
    }
}
