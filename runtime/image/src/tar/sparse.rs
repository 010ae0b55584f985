//! Maps of sparse files: which runs of the file are in the archive.

use super::TarError;
use super::pax::decimal;
use crate::limits;

/// Data runs: (offset, length).
pub type Runs = Vec<(u64, u64)>;

/// Data runs in order, and the file's real size. Everything else is a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseMap {
    pub runs: Runs,
    pub real_size: u64,
}

impl SparseMap {
    /// Checks order, bounds, and that the runs are exactly what the archive stores.
    pub fn new(mut runs: Runs, real_size: u64, stored: u64) -> Result<Self, TarError> {
        if real_size > limits::MAX_FILE {
            return Err(TarError::FileSize(real_size));
        }
        let (mut end, mut sum) = (0u64, 0u64);
        for &(offset, length) in &runs {
            let next = offset.checked_add(length).ok_or(TarError::Sparse("a run overflows"))?;
            if offset < end || next > real_size {
                return Err(TarError::Sparse("runs overlap, are unsorted or go beyond the file"));
            }
            end = next;
            sum += length;
        }
        if sum != stored {
            return Err(TarError::Sparse("the runs are not what is stored"));
        }
        runs.retain(|&(_, length)| length > 0);
        Ok(SparseMap { runs, real_size })
    }
}

/// Collects the map of pax format 1.0, which stands at the start of the data: decimal numbers with newlines.
#[derive(Default)]
pub struct MapParser {
    number: Vec<u8>,
    expected: Option<usize>,
    numbers: Vec<u64>,
}

impl MapParser {
    /// Takes a block of the data; true when the map is complete (the rest of that block is padding).
    pub fn block(&mut self, block: &[u8]) -> Result<bool, TarError> {
        for &byte in block {
            if byte != b'\n' {
                if self.number.len() >= 20 {
                    return Err(TarError::Sparse("a number is too long"));
                }
                self.number.push(byte);
                continue;
            }
            let value = decimal(&self.number).map_err(|_| TarError::Sparse("a number is not decimal"))?;
            self.number.clear();
            match self.expected {
                None if value > limits::MAX_SPARSE_RUNS as u64 => {
                    return Err(TarError::Sparse("too many runs"));
                }
                None => self.expected = Some(value as usize * 2),
                Some(_) => self.numbers.push(value),
            }
            if self.expected == Some(self.numbers.len()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The runs, once complete.
    pub fn runs(self) -> Runs {
        self.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
    }
}
