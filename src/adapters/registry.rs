//! Adapters by name, and the ones that are applied.
//!
//! What is applied is one reference-counted set. Applying other adapters swaps the reference: who
//! runs with the old set keeps it, and its memory is free when the last of them is done.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Adapted, Adapter, AdapterError, AdapterSet, set::Claim, upload::Place};
use crate::{
    backend::Backend,
    models::CausalLm,
    nn::{DeltaSet, ParkedDeltas, Slots},
};

/// What adapters can be applied to.
pub trait ApplyAdapter {
    /// Applies adapters together, each with a weight, instead of what was applied before. What runs
    /// already is not changed.
    ///
    /// # Errors
    /// [`AdapterError`] when one is not known, they exclude each other, or there is no room.
    fn apply_adapters(&self, adapters: &[(&str, f64)]) -> Result<(), AdapterError>;

    /// Applies one adapter.
    ///
    /// # Errors
    /// As [`apply_adapters`](Self::apply_adapters).
    fn apply_adapter(&self, name: &str) -> Result<(), AdapterError> {
        self.apply_adapters(&[(name, 1.0)])
    }

    /// Goes back to the base.
    fn remove_adapter(&self);

    /// Whether any is applied.
    fn has_adapter(&self) -> bool;
}

/// What is known of a registered adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInfo {
    /// Its name.
    pub name: String,
    /// Modules with low-rank matrices.
    pub modules: usize,
    /// The rank of most of them.
    pub rank: usize,
    /// Bytes that it takes on the device.
    pub bytes: u64,
    /// Whether it is there.
    pub is_resident: bool,
    /// The weight that it is applied with, if it is.
    pub applied: Option<f64>,
}

/// Named adapters for one model. Everything is done through a shared reference, from any thread.
#[derive(Debug)]
pub struct AdapterRegistry<B: Backend> {
    slots: Arc<Slots<B>>,
    budget: Option<u64>,
    used: Arc<AtomicU64>,
    active: RwLock<Arc<AdapterSet<B>>>,
    entries: Mutex<Entries<B>>,
}

#[derive(Debug)]
struct Entries<B: Backend> {
    by_name: BTreeMap<String, Entry<B>>,
    /// Counts uses.
    clock: u64,
}

#[derive(Clone, Debug)]
struct Entry<B: Backend> {
    adapter: Arc<Adapter>,
    bytes: u64,
    resident: Option<Arc<AdapterSet<B>>>,
    /// As it was on the device, so that it need not be made again.
    parked: Option<Arc<ParkedDeltas<B>>>,
    last_used: u64,
}

impl<B: Backend> AdapterRegistry<B> {
    /// For the model with these slots ([`CausalLm::slots`]), without a limit on memory.
    pub fn new(slots: &Arc<Slots<B>>) -> Self {
        let (used, slots) = (Arc::<AtomicU64>::default(), slots.clone());
        let base = Self::base(&slots, &used);
        Self {
            slots,
            budget: None,
            used,
            active: RwLock::new(base),
            entries: Mutex::new(Entries { by_name: BTreeMap::new(), clock: 0 }),
        }
    }

    /// With so many bytes of the device's memory for adapters. Those that were not used for longest
    /// go back to host memory when others need the room, but never while they are in use.
    #[must_use]
    pub fn with_budget(mut self, bytes: u64) -> Self {
        self.budget = Some(bytes);
        self
    }

    /// Reads the folder of an adapter ([`Adapter::open`]) and registers it. (Of a GGUF adapter, which does
    /// not say how its base is built: [`add_adapter`](Self::add_adapter) with [`Adapter::open_for`].)
    ///
    /// # Errors
    /// [`AdapterError`] when it cannot be read, is not of this model, or the name is taken.
    pub fn load_adapter(&self, name: &str, path: &Path) -> Result<(), AdapterError> {
        self.add_adapter(name, Adapter::open(path)?)
    }

    /// Registers an adapter, and puts it on the device if there is room.
    ///
    /// # Errors
    /// [`AdapterError`] when it is not of this model, the name is taken, or it is larger than the
    /// whole budget.
    pub fn add_adapter(&self, name: &str, adapter: Adapter) -> Result<(), AdapterError> {
        adapter.check()?;
        adapter.check_base(self.slots.table())?;
        let duplicate = || AdapterError::Duplicate { name: name.to_owned() };
        if self.entries().by_name.contains_key(name) {
            return Err(duplicate());
        }
        let bytes = Place(&self.slots).bytes(&adapter);
        if let Some(budget) = self.budget.filter(|budget| bytes > *budget) {
            let name = name.to_owned();
            return Err(AdapterError::Budget { name, needed: bytes, in_use: 0, budget });
        }
        let adapter = Arc::new(adapter);
        let mut entry = Entry { adapter, bytes, resident: None, parked: None, last_used: 0 };
        match self.make_resident(name, &entry) {
            Ok((resident, parked)) => {
                (entry.resident, entry.parked) = (Some(resident), parked);
            }
            // It waits in host memory.
            Err(AdapterError::Budget { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut entries = self.entries();
        if entries.by_name.contains_key(name) {
            return Err(duplicate());
        }
        entries.clock += 1;
        entry.last_used = entries.clock;
        entries.by_name.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Forgets an adapter. If it is applied, the base is alone again; what runs with it goes on.
    ///
    /// # Errors
    /// [`AdapterError::Unknown`].
    pub fn unload_adapter(&self, name: &str) -> Result<(), AdapterError> {
        let mut entries = self.entries();
        if entries.by_name.remove(name).is_none() {
            return Err(unknown(&entries, name));
        }
        drop(entries);
        if self.active().members().iter().any(|(member, _)| member == name) {
            self.remove_adapter();
        }
        Ok(())
    }

    /// What is registered, in the order of the names.
    pub fn list_adapters(&self) -> Vec<AdapterInfo> {
        let active = self.active();
        let applied = |name: &str| {
            active.members().iter().find(|(member, _)| member == name).map(|(_, weight)| *weight)
        };
        let info = |(name, entry): (&String, &Entry<B>)| AdapterInfo {
            name: name.clone(),
            modules: entry.adapter.modules.len(),
            rank: entry.adapter.config.rank,
            bytes: entry.bytes,
            is_resident: entry.resident.is_some(),
            applied: applied(name),
        };
        self.entries().by_name.iter().map(info).collect()
    }

    /// A registered adapter, as it was read.
    ///
    /// # Errors
    /// [`AdapterError::Unknown`].
    pub fn get_adapter(&self, name: &str) -> Result<Arc<Adapter>, AdapterError> {
        let entries = self.entries();
        let entry = entries.by_name.get(name).ok_or_else(|| unknown(&entries, name))?;
        Ok(entry.adapter.clone())
    }

    /// What is applied.
    pub fn active(&self) -> Arc<AdapterSet<B>> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model with what is applied now. It stays so, whatever is applied later.
    ///
    /// # Errors
    /// [`AdapterError::Delta`] when the registry is of another model.
    pub fn adapt(&self, model: &Arc<dyn CausalLm<B>>) -> Result<Adapted<B>, AdapterError> {
        Adapted::new(model.clone(), self.active())
    }

    /// Bytes of the device's memory that adapters take, those included that are only held by what
    /// still runs.
    pub fn bytes_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Adapters as a set on the device, each with a weight, without applying them: for a batch whose
    /// sequences choose among them ([`AdapterSet::choose`]).
    ///
    /// # Errors
    /// [`AdapterError`] when one is not known, or there is no room.
    pub fn set(&self, adapters: &[(&str, f64)]) -> Result<Arc<AdapterSet<B>>, AdapterError> {
        match adapters {
            [] => Ok(Self::base(&self.slots, &self.used)),
            [(name, weight)] if weight.to_bits() == 1f64.to_bits() => self.resident(name),
            _ => {
                let parts = adapters.iter().map(|(name, _)| self.resident(name));
                let parts = parts.collect::<Result<Vec<_>, _>>()?;
                let names: Vec<_> = adapters.iter().map(|(name, _)| *name).collect();
                let bytes = parts.iter().map(|part| part.bytes()).sum();
                let claim = self.claim(&names.join(", "), bytes)?;
                let weighted = parts.iter().zip(adapters);
                let weighted: Vec<_> = weighted
                    .filter_map(|(part, (_, weight))| Some((part.deltas()?, *weight)))
                    .collect();
                let deltas = Some(DeltaSet::combine(&weighted)?);
                let members = adapters.iter().map(|(name, w)| ((*name).to_owned(), *w)).collect();
                Ok(Arc::new(AdapterSet::new(members, deltas, self.slots.clone(), parts, claim)))
            }
        }
    }

    /// Applies a set, such as a [merged](super::merge) one.
    pub fn apply_set(&self, set: Arc<AdapterSet<B>>) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *active, set);
        drop(active);
        // Only now: freeing memory takes longer than the swap.
        drop(before);
    }

    pub(super) fn slots(&self) -> &Arc<Slots<B>> {
        &self.slots
    }

    /// One adapter on the device.
    fn resident(&self, name: &str) -> Result<Arc<AdapterSet<B>>, AdapterError> {
        let entry = {
            let mut entries = self.entries();
            entries.clock += 1;
            let now = entries.clock;
            let Some(entry) = entries.by_name.get_mut(name) else {
                return Err(unknown(&entries, name));
            };
            entry.last_used = now;
            if let Some(resident) = &entry.resident {
                return Ok(resident.clone());
            }
            entry.clone()
        };
        // Without the lock: who swaps between resident adapters meanwhile does not wait.
        let (resident, parked) = self.make_resident(name, &entry)?;
        if let Some(entry) = self.entries().by_name.get_mut(name) {
            // Another thread may have been faster.
            let resident = entry.resident.get_or_insert(resident).clone();
            entry.parked = entry.parked.take().or(parked);
            return Ok(resident);
        }
        Ok(resident)
    }

    #[allow(clippy::type_complexity)] // said nowhere else
    fn make_resident(
        &self,
        name: &str,
        entry: &Entry<B>,
    ) -> Result<(Arc<AdapterSet<B>>, Option<Arc<ParkedDeltas<B>>>), AdapterError> {
        let claim = self.claim(name, entry.bytes)?;
        let (deltas, parked) = if let Some(parked) = &entry.parked {
            (parked.to_device(self.slots.device()), Some(parked.clone()))
        } else {
            let deltas = Place(&self.slots).upload(&entry.adapter)?;
            // Read back at once: what gives way to others later must not cost time then.
            let parked = match self.budget {
                Some(_) => Some(Arc::new(deltas.park(self.slots.device()).map_err(|reason| {
                    AdapterError::Device { what: format!("adapter {name:?}"), reason }
                })?)),
                None => None,
            };
            (deltas, parked)
        };
        let members = vec![(name.to_owned(), 1.0)];
        let slots = self.slots.clone();
        Ok((Arc::new(AdapterSet::new(members, Some(deltas), slots, Vec::new(), claim)), parked))
    }

    /// Room for so many bytes, for which others may have to go.
    pub(super) fn claim(&self, name: &str, bytes: u64) -> Result<Claim, AdapterError> {
        // One at a time, so that what is free is not given away twice.
        let mut entries = self.entries();
        let Some(budget) = self.budget else { return Ok(Claim::new(&self.used, bytes)) };
        loop {
            let in_use = self.bytes_used();
            if in_use + bytes <= budget {
                return Ok(Claim::new(&self.used, bytes));
            }
            let idle = |entry: &&mut Entry<B>| {
                entry.resident.as_ref().is_some_and(|set| Arc::strong_count(set) == 1)
            };
            let oldest = entries.by_name.values_mut().filter(idle).min_by_key(|e| e.last_used);
            let Some(oldest) = oldest else {
                let name = name.to_owned();
                return Err(AdapterError::Budget { name, needed: bytes, in_use, budget });
            };
            oldest.resident = None;
        }
    }

    fn base(slots: &Arc<Slots<B>>, used: &Arc<AtomicU64>) -> Arc<AdapterSet<B>> {
        let claim = Claim::new(used, 0);
        Arc::new(AdapterSet::new(Vec::new(), None, slots.clone(), Vec::new(), claim))
    }

    fn entries(&self) -> MutexGuard<'_, Entries<B>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown<B: Backend>(entries: &Entries<B>, name: &str) -> AdapterError {
    let known: Vec<&str> = entries.by_name.keys().map(String::as_str).collect();
    AdapterError::Unknown { name: name.to_owned(), known: known.join(", ") }
}

impl<B: Backend> ApplyAdapter for AdapterRegistry<B> {
    fn apply_adapters(&self, adapters: &[(&str, f64)]) -> Result<(), AdapterError> {
        let set = self.set(adapters)?;
        if let Some(deltas) = set.deltas() {
            let all: Vec<usize> = (0..deltas.members()).collect();
            deltas.check_together(&all, &self.slots)?;
        }
        self.apply_set(set);
        Ok(())
    }

    fn remove_adapter(&self) {
        self.apply_set(Self::base(&self.slots, &self.used));
    }

    fn has_adapter(&self) -> bool {
        !self.active().is_empty()
    }
}
