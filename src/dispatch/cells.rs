//! The cells in which cubes of a launch leave what others of it need: see
//! [`LowRank`](metal_candle_kernels::matvec::LowRank).
//!
//! Every thread has its own, for the launches of one thread run in order, and those of several
//! threads need not.

use std::{cell::RefCell, collections::HashMap};

use cubecl::server::Handle;
use metal_candle_kernels::matvec::LowRank;

use super::{Kernels, ahead};

thread_local! {
    /// By the address of the kernels, which live as long as the program.
    static CELLS: RefCell<HashMap<usize, Cells>> = RefCell::default();
}

struct Cells {
    handle: Handle,
    second_half: bool,
}

/// Cells with which launches were listed that never ran: nobody knows what is in them.
pub(super) fn forget() {
    CELLS.with_borrow_mut(HashMap::clear);
}

impl Kernels {
    /// Runs `launch` with this thread's cells, and whether it is the turn of their second half: of one
    /// launch that uses them. Of cells with which one failed nobody knows what is in them: the next
    /// launch gets new ones.
    ///
    /// # Errors
    /// Those of `launch`.
    pub fn with_cells<T, E>(
        &self,
        launch: impl FnOnce(&Handle, bool) -> Result<T, E>,
    ) -> Result<T, E> {
        if !self.is_listing() {
            ahead::settle();
        }
        let address = std::ptr::from_ref(self).addr();
        let known = CELLS.with_borrow_mut(|all| all.remove(&address));
        let mut cells = known.unwrap_or_else(|| Cells {
            handle: self.upload(&[0; LowRank::CELL_BYTES]),
            second_half: false,
        });
        let launched = launch(&cells.handle, cells.second_half)?;
        cells.second_half = !cells.second_half;
        CELLS.with_borrow_mut(|all| all.insert(address, cells));
        Ok(launched)
    }
}
