//! Which launches need a barrier before them: of those past wgpu's encoder, which knows it otherwise.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use wgpu::Buffer;

use crate::dispatch::{gather::Listed, places::Place};

/// Bytes of buffers: none of what is kept touches another.
struct Spans<B>(BTreeMap<(B, u64), u64>);

impl<B> Default for Spans<B> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<B: Ord + Clone> Spans<B> {
    /// The last of them that begins before `end`, if it goes on behind `start`.
    fn meeting(&self, buffer: &B, Range { start, end }: Range<u64>) -> Option<Range<u64>> {
        let ((of, first), &last) = self.0.range(..(buffer.clone(), end)).next_back()?;
        (of == buffer && last > start).then_some(*first..last)
    }

    fn add(&mut self, buffer: &B, mut bytes: Range<u64>) {
        while let Some(met) = self.meeting(buffer, bytes.clone()) {
            if met.start <= bytes.start && bytes.end <= met.end {
                return;
            }
            self.0.remove(&(buffer.clone(), met.start));
            bytes = bytes.start.min(met.start)..bytes.end.max(met.end);
        }
        self.0.insert((buffer.clone(), bytes.start), bytes.end);
    }
}

/// What has been read and written since the last barrier.
#[derive(Default)]
pub(super) struct Hazards {
    read: Spans<Arc<Buffer>>,
    written: Spans<Arc<Buffer>>,
}

impl Hazards {
    /// Whether a barrier must come before a launch: because it reads what was written, and does not wait for
    /// that itself, or writes what was read or written. Where launches do not overlap, each one does.
    pub(super) fn need_barrier(&self, launch: &Listed, places: &[Place], overlaps: bool) -> bool {
        if !overlaps {
            return !self.written.0.is_empty();
        }
        let meets = |before: &Spans<Arc<Buffer>>, place: &Place| {
            before.meeting(&place.buffer, place.range()).is_some()
        };
        places.iter().zip(launch.writes).enumerate().any(|(i, (place, &writes))| {
            if writes {
                meets(&self.written, place) || meets(&self.read, place)
            } else {
                !launch.waits.contains(&i) && meets(&self.written, place)
            }
        })
    }

    /// There is a launch.
    pub(super) fn add(&mut self, launch: &Listed, places: &[Place]) {
        for (place, &writes) in places.iter().zip(launch.writes) {
            let used = if writes { &mut self.written } else { &mut self.read };
            used.add(&place.buffer, place.range());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_meet_where_they_have_bytes_in_common() {
        let mut spans = Spans::default();
        for bytes in [100..200, 300..400, 120..130, 250..310, 400..410] {
            spans.add(&'a', bytes);
        }
        spans.add(&'b', 0..1000);
        let meeting = |bytes| spans.meeting(&'a', bytes);
        assert_eq!(meeting(0..100), None);
        assert_eq!(meeting(0..101), Some(100..200));
        assert_eq!(meeting(150..160), Some(100..200));
        assert_eq!(meeting(200..250), None);
        assert_eq!(meeting(260..700), Some(400..410));
        assert_eq!(meeting(390..400), Some(250..400));
        assert_eq!(meeting(410..500), None);
        assert_eq!(spans.meeting(&'c', 0..1000), None);
    }
}
