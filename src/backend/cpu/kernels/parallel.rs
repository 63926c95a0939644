//! Work shared out over rayon's threads: tasks by number, and one matrix cut into tiles that tasks write.

use super::crew;
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Less memory traffic than this, in bytes, is not worth waking another thread for (some 20 µs of one core's streaming).
pub(super) const FORK_BYTES: usize = 512 * 1024;
/// Less than this is not worth handing to a thread that waits for it (some 2 µs of streaming).
const SHARE_BYTES: usize = 16 * 1024;

/// Whether a product that reads so many bytes is done by one thread: where others would have to be woken, up to
/// `fork_bytes` are.
pub(super) fn is_for_one(bytes: usize, fork_bytes: usize) -> bool {
    bytes <= if crew::is_at_hand() { SHARE_BYTES } else { fork_bytes }
}

/// Runs `task(0)`, …, `task(tasks - 1)`, each once, on the calling thread and on rayon's: those of its
/// [crew](crew::with_crew), if it has one.
///
/// The caller works too, instead of sleeping until the pool is done. Every thread goes through a stretch of tasks in their
/// order, for what a processor reads next should be what follows what it has read; then it takes over what is left of the
/// others' stretches: a thread that wakes late, or loses its core to another program, costs little.
pub(super) fn for_each_task(tasks: usize, task: impl Fn(usize) + Sync) {
    for_each_task_after(0, |_| (), tasks, |number, _| task(number));
}

/// As [`for_each_task`], but `part(0)`, …, `part(parts - 1)` are begun first: a task that needs what they make
/// [waits](Parts::wait) for it as late as it can.
pub(super) fn for_each_task_after(
    parts: usize,
    part: impl Fn(usize) + Sync,
    tasks: usize,
    task: impl Fn(usize, &Parts) + Sync,
) {
    let threads = rayon::current_num_threads().min(tasks);
    let first = Parts { count: parts, next: AtomicUsize::new(0), done: AtomicUsize::new(0) };
    if threads <= 1 {
        first.run(&part);
        (0..tasks).for_each(|number| task(number, &first));
        return;
    }
    let start = |stretch: usize| stretch * tasks / threads;
    let next: Vec<AtomicUsize> = (0..threads).map(|i| AtomicUsize::new(start(i))).collect();
    let arrived = AtomicUsize::new(0);
    let work = || {
        first.run(&part);
        let own = arrived.fetch_add(1, Ordering::Relaxed);
        for stretch in (own..own + threads).map(|i| i % threads) {
            loop {
                let number = next[stretch].fetch_add(1, Ordering::Relaxed);
                if number >= start(stretch + 1) {
                    break;
                }
                task(number, &first);
            }
        }
    };
    if crew::run(&work) {
        return;
    }
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
}

/// What is begun before the tasks.
pub(super) struct Parts {
    count: usize,
    next: AtomicUsize,
    done: AtomicUsize,
}

/// Counts a part as done, also when it panics: others would wait for it for ever.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl Parts {
    fn run(&self, part: impl Fn(usize)) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                break;
            }
            let _done = Done(&self.done);
            part(number);
        }
    }

    /// Until all of them are done. Whoever waits has found them all begun, so that they are done soon.
    pub(super) fn wait(&self) {
        let mut turns = 0;
        while self.done.load(Ordering::Acquire) < self.count {
            turns += 1;
            if turns < crew::BUSY { spin_loop() } else { thread::yield_now() }
        }
    }
}

/// A row-major matrix cut into tiles of `tile_rows` × `tile_columns` (less at the ends), each handed out once.
pub(super) struct Tiles<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    tile_rows: usize,
    tile_columns: usize,
    taken: Vec<AtomicBool>,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for an exclusive borrow of floats, and threads get disjoint parts of it (see `take`).
unsafe impl Sync for Tiles<'_> {}

impl<'a> Tiles<'a> {
    /// Cuts `matrix`, which has `rows` × `columns` values.
    pub(super) fn new(
        matrix: &'a mut [f32],
        (rows, columns): (usize, usize),
        (tile_rows, tile_columns): (usize, usize),
    ) -> Self {
        assert_eq!(matrix.len(), rows * columns, "matrix length");
        assert!(tile_rows > 0 && tile_columns > 0, "empty tiles");
        let count = rows.div_ceil(tile_rows) * columns.div_ceil(tile_columns);
        Self {
            start: matrix.as_mut_ptr(),
            rows,
            columns,
            tile_rows,
            tile_columns,
            taken: (0..count).map(|_| AtomicBool::new(false)).collect(),
            borrow: PhantomData,
        }
    }

    /// Tiles next to each other in one row of tiles.
    pub(super) fn across(&self) -> usize {
        self.columns.div_ceil(self.tile_columns)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.taken.len()
    }

    /// One of them: those of the same columns have numbers next to each other.
    ///
    /// # Panics
    ///
    /// If it was handed out before, or there is no such tile.
    pub(super) fn take_by_columns(&self, number: usize) -> TileMut<'_> {
        let down = self.rows.div_ceil(self.tile_rows);
        self.take(number % down, number / down)
    }

    /// The tile in row `down` and column `along` of tiles.
    ///
    /// # Panics
    ///
    /// If it was handed out before, or lies outside.
    pub(super) fn take(&self, down: usize, along: usize) -> TileMut<'_> {
        assert!(along < self.across(), "no such tile");
        let before = self.taken[down * self.across() + along].swap(true, Ordering::Relaxed);
        assert!(!before, "a tile is handed out once");
        let (row, column) = (down * self.tile_rows, along * self.tile_columns);
        // SAFETY: `row < rows` and `column < columns`, for the tile exists; so the offset is within the matrix.
        let start = unsafe { self.start.add(row * self.columns + column) };
        TileMut {
            start,
            first_row: row,
            first_column: column,
            rows: self.tile_rows.min(self.rows - row),
            columns: self.tile_columns.min(self.columns - column),
            stride: self.columns,
            borrow: PhantomData,
        }
    }
}

/// Exclusive access to a rectangle of a row-major matrix.
pub(super) struct TileMut<'a> {
    start: *mut f32,
    first_row: usize,
    first_column: usize,
    rows: usize,
    columns: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> TileMut<'a> {
    /// All of `matrix`, as `rows` rows of `columns` values.
    pub(super) fn whole(matrix: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert!(matrix.len() >= rows * columns, "matrix length");
        Self {
            start: matrix.as_mut_ptr(),
            first_row: 0,
            first_column: 0,
            rows,
            columns,
            stride: columns,
            borrow: PhantomData,
        }
    }

    /// The rows of the matrix that the tile covers.
    pub(super) fn row_range(&self) -> Range<usize> {
        self.first_row..self.first_row + self.rows
    }

    /// The columns of the matrix that the tile covers.
    pub(super) fn column_range(&self) -> Range<usize> {
        self.first_column..self.first_column + self.columns
    }

    /// The tile's part of the matrix row that is the tile's row `row`.
    #[inline]
    pub(super) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row outside the tile");
        // SAFETY: the row lies within the rectangle, which nothing else can reach while `self` is borrowed: tiles of one
        // matrix do not overlap, and each is handed out once.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.columns) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for tasks in [0, 1, 2, 7, 100] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            for_each_task(tasks, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn tasks_find_the_parts_done() {
        for (parts, tasks) in [(0, 3), (1, 1), (3, 50), (50, 3)] {
            let sum = AtomicUsize::new(0);
            let part = |i: usize| {
                sum.fetch_add(i + 1, Ordering::Relaxed);
            };
            for_each_task_after(parts, part, tasks, |_, first| {
                first.wait();
                assert_eq!(sum.load(Ordering::Relaxed), parts * (parts + 1) / 2);
            });
        }
    }

    #[test]
    #[should_panic(expected = "a bad part")]
    fn a_part_that_panics_keeps_nobody_waiting() {
        for_each_task_after(8, |i| assert_ne!(i, 5, "a bad part"), 8, |_, first| first.wait());
    }

    #[test]
    fn tiles_cover_the_matrix() {
        let mut matrix = vec![0.0; 7 * 10];
        let tiles = Tiles::new(&mut matrix, (7, 10), (3, 4));
        for_each_task(9, |i| {
            let mut tile = tiles.take(i / tiles.across(), i % tiles.across());
            for (r, row) in tile.row_range().enumerate() {
                for (c, column) in tile.column_range().enumerate() {
                    tile.row(r)[c] += (row * 10 + column) as f32;
                }
            }
        });
        assert!(matrix.iter().enumerate().all(|(i, &v)| v == i as f32));
    }

    #[test]
    #[should_panic(expected = "handed out once")]
    fn a_tile_is_not_handed_out_twice() {
        let mut matrix = vec![0.0; 4];
        let tiles = Tiles::new(&mut matrix, (2, 2), (1, 2));
        let _first = tiles.take(1, 0);
        let _second = tiles.take(1, 0);
    }
}
