//! Tar archives for targets: checksums made right, since no fuzzer guesses one, and archives of given members.

const BLOCK: usize = 512;

/// Writes the checksum that the block has.
fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// The same archive with a right checksum wherever a header seems to be.
pub fn sealed(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + BLOCK) {
        at += BLOCK;
        if block.iter().all(|&byte| byte == 0) {
            continue;
        }
        seal(block);
        let digits = block[124..136].iter().skip_while(|&&byte| byte == b' ');
        let size = digits
            .take_while(|byte| (b'0'..=b'7').contains(*byte))
            .fold(0usize, |size, digit| size.saturating_mul(8).saturating_add(usize::from(digit - b'0')));
        let Some(next) = size.checked_next_multiple_of(BLOCK).and_then(|size| at.checked_add(size)) else {
            break;
        };
        at = next;
    }
    tar
}

/// Appends one member.
pub fn push(tar: &mut Vec<u8>, flag: u8, name: &str, data: &[u8]) {
    let mut block = [0; BLOCK];
    let name = name.as_bytes();
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    tar.extend_from_slice(&block);
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}
