//! The query rows of a cube of [`Flash`], and what they see.

use cubecl::prelude::*;

use super::{flash::Flash, visible};

/// Neighbouring rows of one head.
#[derive(CubeType)]
pub(super) struct Tile {
    pub(super) sequence: usize,
    head: usize,
    len: usize,
    heads: usize,
    /// The first place of the key/value head's part of the cache.
    pub(super) base: usize,
    pub(super) first_row: usize,
    /// Of those that exist.
    pub(super) last_row: usize,
}

#[cube]
pub(super) fn tile(params: &Array<u32>, #[comptime] kernel: Flash) -> Tile {
    let rows = comptime!(kernel.rows as usize);
    let batch = params[0] as usize;
    let len = params[1] as usize;
    let heads = params[2] as usize;
    let kv_heads = params[3] as usize;
    let capacity = params[5] as usize;
    let tiles = (len + comptime!(rows - 1)) / rows;
    // Cubes behind the end do the last one's work again.
    let cube = min(CUBE_POS, batch * heads * tiles - 1);
    // Later rows see more keys: the longest work begins first.
    let tile = tiles - 1 - cube / (batch * heads);
    let sequence = cube / heads % batch;
    let head = cube % heads;
    let first_row = tile * rows;
    Tile {
        sequence,
        head,
        len,
        heads,
        base: (sequence * kv_heads + head / (heads / kv_heads)) * capacity,
        first_row,
        last_row: min(first_row + comptime!(rows - 1), len - 1),
    }
}

/// Which row of `q`, and of the result, a row of the tile's head is.
#[cube]
pub(super) fn place_of(tile: &Tile, row: usize) -> usize {
    (tile.sequence * tile.len + row) * tile.heads + tile.head
}

/// The first of the blocks of `keys` keys that the tile's rows see, and the first one after those: what the
/// first row sees begins first, and what the last one sees ends last.
#[cube]
pub(super) fn blocks(
    tile: &Tile,
    params: &Array<u32>,
    padding: &Array<u32>,
    #[comptime] keys: usize,
) -> (usize, usize) {
    let begin = visible(params, padding, tile.sequence, tile.first_row).0 as usize;
    let end = visible(params, padding, tile.sequence, tile.last_row).1 as usize;
    (begin / keys, (end + comptime!(keys - 1)) / keys)
}
