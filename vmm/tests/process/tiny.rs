//! Kernels of a few instructions, entered through PVH: for these tests, for those of the jail (`runtime/vm/tests/jail`) and for the recorder of SDKs
//! (`tests/sdk-recorder`).

/// Where the kernels' code is loaded, and entered.
const ENTRY: u32 = 0x10_0000;

/// An ELF file with `code` as its only segment and a PVH note.
pub fn kernel(code: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    [4u32, 4, 18].iter().for_each(|word| note.extend(word.to_le_bytes()));
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());
    let mut file = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(24, &u64::from(ENTRY).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &[56, 0, 2, 0]);
    let mut segment = |at: usize, kind: u8, offset: usize, len: usize| {
        put(at, &[kind]);
        put(at + 8, &(offset as u64).to_le_bytes());
        put(at + 24, &u64::from(ENTRY).to_le_bytes());
        put(at + 32, &(len as u64).to_le_bytes());
        put(at + 40, &(len as u64).to_le_bytes());
    };
    segment(64, 1, 0x1000, code.len());
    segment(120, 4, 0x1000 + code.len(), note.len());
    file.extend_from_slice(code);
    file.extend(note);
    file
}
