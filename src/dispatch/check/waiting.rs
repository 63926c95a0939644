//! Cases of kernels that can be told to wait ([`Wait`](metal_candle_kernels::Wait)): what they wait for is
//! there, so that they make the same; and what they make can be waited for.

use metal_candle_kernels::Kernel;

use super::{Buffer, Case};

/// Tells every other case to wait for those buffers that are there as a whole.
pub(super) fn told(kernel: Kernel, mut cases: Vec<Case>) -> Vec<Case> {
    // The parameters come before the results.
    let Some(params) = kernel.announces().start.checked_sub(1) else { return cases };
    for case in cases.iter_mut().step_by(2) {
        for wait in kernel.waits() {
            let is_there = matches!(&case.buffers[wait.buffer],
                Buffer::Input(bytes) if is_announced(bytes));
            if let (true, Buffer::Input(words)) = (is_there, &mut case.buffers[params]) {
                let word = &mut words[4 * wait.word..4 * wait.word + 4];
                word.iter_mut().zip(wait.bit.to_le_bytes()).for_each(|(byte, bit)| *byte |= bit);
            }
        }
    }
    cases
}

/// Whether everything in a result can be waited for: no word of it is 0.
pub(super) fn is_announced(bytes: &[u8]) -> bool {
    !bytes.chunks(4).any(|word| word == [0; 4])
}
