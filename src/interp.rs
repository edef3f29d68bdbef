//! The CPU interpreter: runs a [`Plan`] over plain byte arrays with the kernels' own formulas. It is a witness that
//! the plan is right: it obeys the placements and the waves exactly as recorded and nothing else, so a tensor that
//! was given a place too early, or a pass that runs before its data is ready, changes a number or meets poison.
//!
//! - Transient arenas are filled with poison (NaN in every float type, an absurd index in every integer type) at
//!   the start of each run and of each round of a run.
//! - Passes of one wave may run in any order and at the same time: at the start of a wave every range that one of
//!   its passes only writes becomes poison, and the passes then run in an order shuffled by a seed. Seeds `2k` and
//!   `2k + 1` run every wave in opposite orders, so two runs meet every pair of passes both ways round.
//! - Guarded passes do not run where the guard is 0, and what they would have written stays poison.
//! - Values are rounded to their storage type when written, and computed in f64 between.
//! - A NaN among the values of a pass is an error that names the pass, the tensor and the poisoned operand.
//!
//! State and carries start as zero and survive runs. With [`Placement::Naive`] every transient tensor has bytes of
//! its own; a plan whose aliasing is right gives the same bytes either way.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::dtype::{DType, tiles};
use crate::formula::{Formula, FormulaError, TensorView, decode, encode};
use crate::ids::{ArenaId, Id, IdVec, KernelId, PassId, TensorId};
use crate::kernel::Access;
use crate::plan::{ArenaKind, Entry, PassInfo, Plan, Slot, Step, Weight};

/// Where transient tensors lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Where the plan says.
    #[default]
    Planned,
    /// Each in bytes of its own; views stay in the tensor that they show.
    Naive,
}

/// Why a plan did not run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InterpError {
    /// The plan has no such entry.
    #[error("the plan has no entry `{0}`")]
    NoEntry(String),
    /// An input is missing.
    #[error("input `{0}` was not given")]
    NoInput(String),
    /// Given bytes have the wrong size.
    #[error("`{tensor}` takes {wanted} bytes, {given} were given")]
    WrongSize {
        /// The input or weight.
        tensor: String,
        /// Its size.
        wanted: u64,
        /// The size of what was given.
        given: u64,
    },
    /// The plan contradicts itself: an id or a range leads nowhere.
    #[error("the plan is damaged: {0}")]
    Damaged(String),
    /// An arena does not fit in memory.
    #[error("no memory for an arena of {0} bytes")]
    NoMemory(u64),
    /// A kernel's formulas do not parse or do not fit the pass.
    #[error("pass `{pass}` (kernel `{kernel}`): {error}")]
    Formula {
        /// The pass.
        pass: String,
        /// Its kernel.
        kernel: String,
        /// What is wrong.
        error: Box<FormulaError>,
    },
    /// A value is not a number.
    #[error("pass `{pass}` computed a NaN at element {element} of `{tensor}`, {why}")]
    NotANumber {
        /// The pass.
        pass: String,
        /// The tensor that it writes.
        tensor: String,
        /// The first such element.
        element: usize,
        /// The poisoned operands, or that there is none.
        why: String,
    },
}

/// Every half is a NaN in f16 and bf16, every word one in f32 and far out of range as an index.
const POISON: [u8; 2] = 0xffed_u16.to_le_bytes();

/// Runs a plan; see the module doc.
#[derive(Debug)]
pub struct Interpreter<'a> {
    plan: &'a Plan,
    placement: Placement,
    seed: u64,
    formulas: IdVec<KernelId, Result<Formula, FormulaError>>,
    arenas: IdVec<ArenaId, Vec<u8>>,
}

impl<'a> Interpreter<'a> {
    /// Makes the plan's arenas and fills the weights; `weights` gives each one's bytes as they are packed, block
    /// formats in [`tiles`].
    pub fn new(
        plan: &'a Plan,
        mut weights: impl FnMut(&Weight) -> Vec<u8>,
    ) -> Result<Self, InterpError> {
        let mut arenas = IdVec::new();
        for arena in &plan.arenas {
            arenas.push(zeroed(arena.bytes)?);
        }
        for weight in &plan.weights {
            let bytes = weights(weight);
            let wanted = weight.dtype.size_of(&weight.shape).unwrap_or(u64::MAX);
            expect_size(&weight.name, wanted, bytes.len())?;
            let range = span(&weight.name, weight.offset, wanted)?;
            // In here every tensor stands row after row.
            let bytes = tiles::by_rows(weight.dtype, &weight.shape, bytes);
            place(&mut arenas, weight.arena, &weight.name, range)?.copy_from_slice(&bytes);
        }
        let formulas = plan
            .kernels
            .iter()
            .map(|kernel| Formula::parse(&kernel.reference))
            .collect();
        Ok(Self {
            plan,
            placement: Placement::Planned,
            seed: 0,
            formulas,
            arenas,
        })
    }

    /// Sets where transient tensors lie.
    pub fn with_placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets the seed that shuffles the passes of each wave; an odd seed reverses the order of the even one before.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Runs one submit of the entry called `entry` at `parity` (0 or 1) and gives its outputs by name. `inputs`
    /// holds the stored bytes of every input by name.
    pub fn run(
        &mut self,
        entry: &str,
        parity: u64,
        inputs: &BTreeMap<String, Vec<u8>>,
    ) -> Result<BTreeMap<String, Vec<u8>>, InterpError> {
        let entry = self
            .plan
            .entries
            .iter()
            .find(|one| one.name == entry)
            .ok_or_else(|| InterpError::NoEntry(entry.to_string()))?;
        let mut memory = Memory::new(entry, parity, self.placement, self.plan, &mut self.arenas)?;
        for id in &entry.inputs {
            let name = &tensor(entry, *id)?.name;
            let bytes = inputs
                .get(name)
                .ok_or_else(|| InterpError::NoInput(name.clone()))?;
            let place = memory.bytes_mut(*id)?;
            expect_size(name, place.len() as u64, bytes.len())?;
            place.copy_from_slice(bytes);
        }
        let mut random = SplitMix64(self.seed >> 1);
        let waves = waves(entry);
        for _ in 0..entry.repeat {
            memory.poison_transients(self.plan);
            for wave in &waves {
                let mut wave = wave.clone();
                shuffle(&mut wave, &mut random);
                if self.seed & 1 == 1 {
                    wave.reverse();
                }
                memory.poison_writes(&wave)?;
                for pass in wave {
                    if memory.is_let_out(pass)? {
                        continue;
                    }
                    run_pass(self.plan, &self.formulas, &mut memory, pass)?;
                }
            }
        }
        let mut outputs = BTreeMap::new();
        for id in &entry.outputs {
            let name = tensor(entry, *id)?.name.clone();
            outputs.insert(name, memory.bytes(*id)?.to_vec());
        }
        Ok(outputs)
    }
}

/// The dispatches between barriers, in order. Passes that no barrier separates form one wave, whatever the plan's
/// author had in mind.
fn waves(entry: &Entry) -> Vec<Vec<PassId>> {
    let mut waves = vec![Vec::new()];
    for step in &entry.steps {
        match (step, waves.last_mut()) {
            (Step::Dispatch(pass), Some(wave)) => wave.push(*pass),
            _ => waves.push(Vec::new()),
        }
    }
    waves.retain(|wave| !wave.is_empty());
    waves
}

/// Computes one pass and stores what it writes.
fn run_pass(
    plan: &Plan,
    formulas: &IdVec<KernelId, Result<Formula, FormulaError>>,
    memory: &mut Memory<'_>,
    pass: PassId,
) -> Result<(), InterpError> {
    let pass = memory.pass(pass)?;
    let (Some(kernel), Some(formula)) = (plan.kernels.get(pass.kernel), formulas.get(pass.kernel))
    else {
        return Err(InterpError::Damaged(format!(
            "pass `{}` has no kernel",
            pass.path
        )));
    };
    let wrong = |error: &FormulaError| InterpError::Formula {
        pass: pass.path.clone(),
        kernel: kernel.name.clone(),
        error: Box::new(error.clone()),
    };
    let formula = formula.as_ref().map_err(wrong)?;
    let mut ports = BTreeMap::new();
    for bind in &pass.binds {
        let tensor = tensor(memory.entry, bind.tensor)?;
        let view = TensorView {
            dtype: tensor.dtype,
            shape: &tensor.shape,
            bytes: memory.bytes(bind.tensor)?,
            access: bind.access,
        };
        ports.insert(bind.port.clone(), view);
    }
    let mut values = formula
        .eval(&ports, &pass.dims, &pass.options)
        .map_err(|error| wrong(&error))?;
    for bind in pass.binds.iter().filter(|bind| bind.access.writes()) {
        let Some(values) = values.remove(&bind.port) else {
            continue;
        };
        let tensor = tensor(memory.entry, bind.tensor)?;
        if let Some(element) = values.iter().position(|value| value.is_nan()) {
            return Err(InterpError::NotANumber {
                pass: pass.path.clone(),
                tensor: tensor.name.clone(),
                element,
                why: memory.poisoned_operands(pass)?,
            });
        }
        let bytes = encode(tensor.dtype, &values);
        let place = memory.bytes_mut(bind.tensor)?;
        expect_size(&tensor.name, place.len() as u64, bytes.len())?;
        place.copy_from_slice(&bytes);
    }
    Ok(())
}

/// The tensors of one entry with their bytes.
struct Memory<'a> {
    entry: &'a Entry,
    parity: u64,
    arenas: &'a mut IdVec<ArenaId, Vec<u8>>,
    /// With naive placement: the bytes of each transient tensor that is no view.
    own: BTreeMap<TensorId, Vec<u8>>,
}

impl<'a> Memory<'a> {
    fn new(
        entry: &'a Entry,
        parity: u64,
        placement: Placement,
        plan: &Plan,
        arenas: &'a mut IdVec<ArenaId, Vec<u8>>,
    ) -> Result<Self, InterpError> {
        let mut own = BTreeMap::new();
        for (id, tensor) in entry.tensors.enumerate() {
            let kind = plan.arenas.get(tensor.arena).map(|arena| arena.kind);
            let transient = kind == Some(ArenaKind::Transient);
            if placement == Placement::Naive && transient && tensor.view_of.is_none() {
                own.insert(id, zeroed(tensor.bytes)?);
            }
        }
        Ok(Self {
            entry,
            parity,
            arenas,
            own,
        })
    }

    /// Whether the guard is 0 and the pass guarded. What it would write stays poison.
    fn is_let_out(&self, pass: PassId) -> Result<bool, InterpError> {
        match self.entry.guard {
            Some(guard) if self.pass(pass)?.guarded => {
                Ok(self.bytes(guard)?.iter().take(4).all(|byte| *byte == 0))
            }
            _ => Ok(false),
        }
    }

    fn pass(&self, id: PassId) -> Result<&'a PassInfo, InterpError> {
        let missing = || InterpError::Damaged(format!("there is no pass {}", id.index()));
        self.entry.passes.get(id).ok_or_else(missing)
    }

    /// The tensor whose own bytes hold `id`, if it has any, and the range in them or else in the arena.
    fn locate(&self, id: TensorId) -> Result<(Option<TensorId>, Range<usize>), InterpError> {
        let info = tensor(self.entry, id)?;
        let range = range(info, self.parity)?;
        let root = info.view_of.unwrap_or(id);
        if !self.own.contains_key(&root) {
            return Ok((None, range));
        }
        let start = self::range(tensor(self.entry, root)?, self.parity)?.start;
        let outside =
            || InterpError::Damaged(format!("view `{}` starts before its tensor", info.name));
        let offset = range.start.checked_sub(start).ok_or_else(outside)?;
        Ok((Some(root), offset..offset + range.len()))
    }

    fn bytes(&self, id: TensorId) -> Result<&[u8], InterpError> {
        let (root, range) = self.locate(id)?;
        let info = tensor(self.entry, id)?;
        let bytes = match root {
            Some(root) => self.own.get(&root),
            None => self.arenas.get(info.arena),
        };
        bytes
            .and_then(|bytes| bytes.get(range))
            .ok_or_else(|| outside(&info.name))
    }

    fn bytes_mut(&mut self, id: TensorId) -> Result<&mut [u8], InterpError> {
        let (root, range) = self.locate(id)?;
        let info = tensor(self.entry, id)?;
        match root {
            Some(root) => self
                .own
                .get_mut(&root)
                .and_then(|bytes| bytes.get_mut(range))
                .ok_or_else(|| outside(&info.name)),
            None => place(self.arenas, info.arena, &info.name, range),
        }
    }

    /// Spoils all transient memory, as at the start of a submit or of a round.
    fn poison_transients(&mut self, plan: &Plan) {
        for (arena, bytes) in plan.arenas.iter().zip(self.arenas.iter_mut()) {
            if arena.kind == ArenaKind::Transient {
                poison(bytes);
            }
        }
        self.own.values_mut().for_each(|bytes| poison(bytes));
    }

    /// Spoils what the passes of a wave only write, as if their first stores had already landed. A pass that works
    /// in place reads its range before it writes there, element by element, so that range is left alone.
    fn poison_writes(&mut self, wave: &[PassId]) -> Result<(), InterpError> {
        for pass in wave {
            for bind in &self.pass(*pass)?.binds {
                if bind.access == Access::Write && bind.in_place.is_none() {
                    poison(self.bytes_mut(bind.tensor)?);
                }
            }
        }
        Ok(())
    }

    fn poisoned_operands(&self, pass: &PassInfo) -> Result<String, InterpError> {
        let mut names = Vec::new();
        for bind in pass.binds.iter().filter(|bind| bind.access.reads()) {
            let info = tensor(self.entry, bind.tensor)?;
            let values = decode(info.dtype, self.bytes(bind.tensor)?).unwrap_or_default();
            let poison = u32::from_le_bytes([POISON[0], POISON[1], POISON[0], POISON[1]]);
            let is_poison = |value: &f64| match info.dtype {
                DType::U32 => *value == f64::from(poison),
                _ => value.is_nan(),
            };
            if let Some(element) = values.iter().position(is_poison) {
                names.push(format!("`{}` ({}[{element}])", info.name, bind.port));
            }
        }
        Ok(match names.is_empty() {
            true => "though no operand holds poison".into(),
            false => format!("because nothing had written {}", names.join(" and ")),
        })
    }
}

fn tensor(entry: &Entry, id: TensorId) -> Result<&crate::plan::Tensor, InterpError> {
    let missing = || InterpError::Damaged(format!("there is no tensor {}", id.index()));
    entry.tensors.get(id).ok_or_else(missing)
}

/// The tensor's bytes in its arena at that parity.
fn range(tensor: &crate::plan::Tensor, parity: u64) -> Result<Range<usize>, InterpError> {
    let parity = parity & 1;
    let shift = match tensor.slot {
        Slot::Fixed => 0,
        Slot::Same { stride } => {
            if parity == 1 {
                stride
            } else {
                0
            }
        }
        Slot::Other { stride } => {
            if parity == 1 {
                0
            } else {
                stride
            }
        }
    };
    let start = tensor
        .offset
        .checked_add(shift)
        .ok_or_else(|| outside(&tensor.name))?;
    span(&tensor.name, start, tensor.bytes)
}

fn span(name: &str, start: u64, bytes: u64) -> Result<Range<usize>, InterpError> {
    let end = start.checked_add(bytes).ok_or_else(|| outside(name))?;
    Ok(start as usize..end as usize)
}

fn place<'m>(
    arenas: &'m mut IdVec<ArenaId, Vec<u8>>,
    arena: ArenaId,
    name: &str,
    range: Range<usize>,
) -> Result<&'m mut [u8], InterpError> {
    if arenas.get(arena).is_none() {
        return Err(outside(name));
    }
    arenas[arena].get_mut(range).ok_or_else(|| outside(name))
}

fn outside(name: &str) -> InterpError {
    InterpError::Damaged(format!("`{name}` does not lie inside its arena"))
}

fn expect_size(tensor: &str, wanted: u64, given: usize) -> Result<(), InterpError> {
    if wanted == given as u64 {
        return Ok(());
    }
    Err(InterpError::WrongSize {
        tensor: tensor.to_string(),
        wanted,
        given: given as u64,
    })
}

/// `bytes` zero bytes, or an error instead of an abort.
fn zeroed(bytes: u64) -> Result<Vec<u8>, InterpError> {
    let mut memory = Vec::new();
    memory
        .try_reserve_exact(usize::try_from(bytes).unwrap_or(usize::MAX))
        .map_err(|_| InterpError::NoMemory(bytes))?;
    memory.resize(bytes as usize, 0);
    Ok(memory)
}

fn poison(bytes: &mut [u8]) {
    for (byte, pattern) in bytes.iter_mut().zip(POISON.iter().cycle()) {
        *byte = *pattern;
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): a small generator whose stream is the same everywhere.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Fisher and Yates.
fn shuffle(items: &mut [PassId], random: &mut SplitMix64) {
    for last in (1..items.len()).rev() {
        items.swap(last, (random.next() % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests;
