//! Reads a module back: what it binds, its push constants, specialisation constants, workgroup size, shared memory and
//! capabilities.
//!
//! In: SPIR-V words and the values of specialisation constants. Out: a [`Reflection`], or why the words are no
//! compute module. The words are hostile until then: their number is bounded, ids are looked up and never used as
//! sizes, and types and constants are evaluated in one pass forwards, as SPIR-V orders them, so that nothing can
//! refer to itself.

use std::collections::{BTreeMap, BTreeSet};

use spirv::{
    BuiltIn, Capability, Decoration, ExecutionMode, ExecutionModel, MAGIC_NUMBER, MemoryAccess, Op,
    StorageClass,
};

/// The largest module that is looked at, in words. The largest kernel of the repository has some 20 000.
const MAX_WORDS: usize = 1 << 22;

/// Words before the first instruction.
const HEADER: usize = 5;

/// What a module says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reflection {
    /// The name of its one entry point.
    pub entry: String,
    /// The workgroup size after specialisation.
    pub local_size: [u32; 3],
    /// Bindings in order of set and number. Variables that share a binding are one.
    pub bindings: Vec<Bound>,
    /// The push constant block; none if no invocation uses it.
    pub push: Option<PushBlock>,
    /// Ids and types of the specialisation constants that are left.
    pub spec: BTreeMap<u32, Scalar>,
    /// Bytes of shared memory after specialisation; `None` if some size is not known.
    pub shared_bytes: Option<u64>,
    /// Capabilities that it declares.
    pub capabilities: BTreeSet<Capability>,
}

/// A resource of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Descriptor set.
    pub set: u32,
    /// Binding number.
    pub number: u32,
    /// Whether it is a storage buffer.
    pub storage: bool,
    /// Whether the shader may read it: it is not declared `writeonly`.
    pub reads: bool,
    /// Whether the shader may write it: it is not declared `readonly`.
    pub writes: bool,
    /// Whether some load or store of it is private, as all are but atomic ones and, in the Vulkan memory model, those of a
    /// `devicecoherent` buffer and the like: what other workgroups store need not be seen, however they are waited for.
    pub private: bool,
}

/// The push constant block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushBlock {
    /// Bytes up to the end of the last member.
    pub bytes: u64,
    /// Offset and type of each member; `None` for a type that is no 32-bit scalar.
    pub members: Vec<(u32, Option<Scalar>)>,
}

/// A scalar type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Scalar {
    Bool,
    I32,
    U32,
    F32,
}

/// Why words are no compute module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReflectError {
    /// No header.
    #[error("it does not begin as SPIR-V does")]
    NotSpirv,
    /// Too many words.
    #[error("it has {0} words; at most {MAX_WORDS} are looked at")]
    TooLong(usize),
    /// An instruction that has no length or goes past the end.
    #[error("the instruction at word {0} has no length or goes past the end")]
    Instruction(usize),
    /// None or several entry points, or one that is no compute shader.
    #[error("it has {0} compute entry points; a kernel has one")]
    EntryPoints(usize),
    /// The workgroup size is missing or not constant.
    #[error("its workgroup size is not known")]
    LocalSize,
    /// The push constant block is no structure with offsets and sizes.
    #[error("its push constant block has no known layout")]
    PushLayout,
}

/// Reads `words`; `spec` gives values to specialisation constants by id, the others keep their defaults.
///
/// Of the instructions before the first function the two dozen that matter here are looked at, and of the functions loads,
/// stores and what they go through; the rest are passed over by their length. What only a validator can know (dominance, types of operands) is left to it.
pub fn reflect(words: &[u32], spec: &[(u32, u32)]) -> Result<Reflection, ReflectError> {
    let [global, code] = instructions(words)?;
    let entries: Vec<&Instruction> = global
        .iter()
        .filter(|one| one.op == Op::EntryPoint)
        .collect();
    let [entry] = entries.as_slice() else {
        return Err(ReflectError::EntryPoints(entries.len()));
    };
    if entry.word(0) != Some(ExecutionModel::GLCompute as u32) {
        return Err(ReflectError::EntryPoints(0));
    }
    let capabilities = global.iter().filter(|one| one.op == Op::Capability);
    let globals = Globals::new(&global, spec);
    Ok(Reflection {
        entry: text(entry.rest(2)),
        local_size: globals.local_size(&global)?,
        bindings: globals.bindings(&private_variables(&code)),
        push: globals.push()?,
        spec: globals.spec_constants(),
        shared_bytes: globals.shared_bytes(),
        capabilities: capabilities
            .filter_map(|one| Capability::from_u32(one.word(0)?))
            .collect(),
    })
}

/// An instruction and its operands, result type and result id included.
#[derive(Clone, Copy)]
struct Instruction<'a> {
    op: Op,
    words: &'a [u32],
}

impl<'a> Instruction<'a> {
    fn word(&self, index: usize) -> Option<u32> {
        self.words.get(index).copied()
    }
    fn rest(&self, from: usize) -> &'a [u32] {
        self.words.get(from..).unwrap_or_default()
    }
    /// Where the result id stands: types have no type of their own.
    fn result(&self) -> Option<u32> {
        match self.op {
            Op::TypeBool
            | Op::TypeInt
            | Op::TypeFloat
            | Op::TypeVector
            | Op::TypeMatrix
            | Op::TypeArray
            | Op::TypeRuntimeArray
            | Op::TypeStruct
            | Op::TypePointer => self.word(0),
            Op::Constant
            | Op::ConstantTrue
            | Op::ConstantFalse
            | Op::ConstantComposite
            | Op::SpecConstant
            | Op::SpecConstantTrue
            | Op::SpecConstantFalse
            | Op::SpecConstantComposite
            | Op::SpecConstantOp
            | Op::Variable => self.word(1),
            _ => None,
        }
    }
}

/// The instructions before the first function, and those after it.
fn instructions(words: &[u32]) -> Result<[Vec<Instruction<'_>>; 2], ReflectError> {
    if words.len() > MAX_WORDS {
        return Err(ReflectError::TooLong(words.len()));
    }
    if words.len() < HEADER || words[0] != MAGIC_NUMBER {
        return Err(ReflectError::NotSpirv);
    }
    let [mut global, mut code] = [Vec::new(), Vec::new()];
    let mut in_code = false;
    let mut at = HEADER;
    while let Some(first) = words.get(at) {
        let length = (first >> 16) as usize;
        let operands = words.get(at + 1..at + length);
        let operands = operands.ok_or(ReflectError::Instruction(at))?;
        let op = Op::from_u32(first & 0xffff);
        in_code |= op == Some(Op::Function);
        if let Some(op) = op {
            let part = if in_code { &mut code } else { &mut global };
            part.push(Instruction {
                op,
                words: operands,
            });
        }
        at += length;
    }
    Ok([global, code])
}

/// The variables that some load or store reaches which does not say that others may touch the same bytes.
fn private_variables(code: &[Instruction]) -> BTreeSet<u32> {
    // What pointers of the code were made from; functions do not take any, as GLSL has none.
    let mut from: BTreeMap<u32, u32> = BTreeMap::new();
    let mut private = BTreeSet::new();
    for one in code {
        let pointers: &[usize] = match one.op {
            Op::AccessChain | Op::InBoundsAccessChain | Op::PtrAccessChain | Op::CopyObject => {
                if let (Some(result), Some(base)) = (one.word(1), one.word(2)) {
                    let root = from.get(&base).copied().unwrap_or(base);
                    from.insert(result, root);
                }
                continue;
            }
            Op::Load | Op::CooperativeMatrixLoadKHR => &[2],
            Op::Store | Op::CooperativeMatrixStoreKHR => &[0],
            Op::CopyMemory => &[0, 1],
            _ => continue,
        };
        // Behind the pointer a store has its value, and matrices have their layout and, as rows and columns ask for, a stride.
        let mask = one.word(match one.op {
            Op::Load => 3,
            Op::CooperativeMatrixLoadKHR => 5,
            Op::CooperativeMatrixStoreKHR => 4,
            _ => 2,
        });
        let mask = MemoryAccess::from_bits_retain(mask.unwrap_or(0));
        if !mask.contains(MemoryAccess::NON_PRIVATE_POINTER) {
            let roots = pointers.iter().filter_map(|at| one.word(*at));
            private.extend(roots.map(|id| from.get(&id).copied().unwrap_or(id)));
        }
    }
    private
}

/// A literal text: bytes in little-endian words up to a zero byte.
fn text(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An id, or a member of a structure.
type Decorated = (u32, Option<u32>);

/// Declarations of a module by id, with what they amount to.
struct Globals<'a> {
    declared: BTreeMap<u32, Instruction<'a>>,
    /// Decorations of an id or of a member of a structure, with their first operand.
    decorations: BTreeMap<Decorated, Vec<(Decoration, Option<u32>)>>,
    /// Values of integer and boolean constants.
    values: BTreeMap<u32, u64>,
    /// Bytes of types.
    sizes: BTreeMap<u32, u64>,
}

impl<'a> Globals<'a> {
    fn new(global: &[Instruction<'a>], spec: &[(u32, u32)]) -> Self {
        let mut globals = Self {
            declared: BTreeMap::new(),
            decorations: BTreeMap::new(),
            values: BTreeMap::new(),
            sizes: BTreeMap::new(),
        };
        for one in global {
            globals.decorate(one);
            let Some(id) = one.result() else { continue };
            if let Some(value) = globals.value(id, one, spec) {
                globals.values.insert(id, value);
            }
            if let Some(size) = globals.size(id, one) {
                globals.sizes.insert(id, size);
            }
            globals.declared.insert(id, *one);
        }
        globals
    }

    fn decorate(&mut self, one: &Instruction) {
        let (key, rest) = match (one.op, one.words) {
            (Op::Decorate, [id, rest @ ..]) => ((*id, None), rest),
            (Op::MemberDecorate, [id, member, rest @ ..]) => ((*id, Some(*member)), rest),
            _ => return,
        };
        if let [decoration, values @ ..] = rest
            && let Some(decoration) = Decoration::from_u32(*decoration)
        {
            let list = self.decorations.entry(key).or_default();
            list.push((decoration, values.first().copied()));
        }
    }

    fn decoration(&self, id: u32, member: Option<u32>, wanted: Decoration) -> Option<u32> {
        let list = self.decorations.get(&(id, member))?;
        let found = list.iter().find(|(decoration, _)| *decoration == wanted);
        found.and_then(|(_, value)| *value)
    }

    fn has(&self, id: u32, member: Option<u32>, wanted: Decoration) -> bool {
        let list = self.decorations.get(&(id, member));
        list.is_some_and(|list| list.iter().any(|(decoration, _)| *decoration == wanted))
    }

    /// The value of a constant, from those before it.
    fn value(&self, id: u32, one: &Instruction, spec: &[(u32, u32)]) -> Option<u64> {
        let chosen = || {
            let number = self.decoration(id, None, Decoration::SpecId)?;
            let (_, value) = spec.iter().find(|(id, _)| *id == number)?;
            Some(u64::from(*value))
        };
        match one.op {
            Op::Constant => literal(one.rest(2)),
            Op::SpecConstant => chosen().or_else(|| literal(one.rest(2))),
            Op::ConstantTrue => Some(1),
            Op::ConstantFalse => Some(0),
            Op::SpecConstantTrue => Some(chosen().unwrap_or(1).min(1)),
            Op::SpecConstantFalse => Some(chosen().unwrap_or(0).min(1)),
            Op::SpecConstantOp => self.operation(one),
            _ => None,
        }
    }

    /// 32-bit arithmetic on constants, as far as sizes are made of it.
    fn operation(&self, one: &Instruction) -> Option<u64> {
        let (op, operands) = one.rest(2).split_first()?;
        let mut values = [0_u32; 3];
        for (value, operand) in values.iter_mut().zip(operands) {
            *value = u32::try_from(*self.values.get(operand)?).ok()?;
        }
        let [a, b, c] = values;
        let truth = u32::from;
        let result = match Op::from_u32(*op)? {
            Op::IAdd => a.wrapping_add(b),
            Op::ISub => a.wrapping_sub(b),
            Op::IMul => a.wrapping_mul(b),
            Op::UDiv => a.checked_div(b)?,
            Op::UMod => a.checked_rem(b)?,
            Op::ShiftLeftLogical => a.checked_shl(b)?,
            Op::ShiftRightLogical => a.checked_shr(b)?,
            Op::BitwiseAnd | Op::LogicalAnd => a & b,
            Op::BitwiseOr | Op::LogicalOr => a | b,
            Op::LogicalNot => truth(a == 0),
            Op::IEqual => truth(a == b),
            Op::INotEqual => truth(a != b),
            Op::ULessThan => truth(a < b),
            Op::ULessThanEqual => truth(a <= b),
            Op::UGreaterThan => truth(a > b),
            Op::UGreaterThanEqual => truth(a >= b),
            Op::Select if a != 0 => b,
            Op::Select => c,
            _ => return None,
        };
        Some(result.into())
    }

    /// The bytes of a type, from those before it. A type without a size of its own (a runtime array) has none.
    fn size(&self, id: u32, one: &Instruction) -> Option<u64> {
        let inner = |index: usize| self.sizes.get(&one.word(index)?).copied();
        match one.op {
            Op::TypeBool => Some(4),
            Op::TypeInt | Op::TypeFloat => Some(u64::from(one.word(1)?) / 8),
            Op::TypeVector | Op::TypeMatrix => inner(1)?.checked_mul(one.word(2)?.into()),
            Op::TypeArray => {
                let length = *self.values.get(&one.word(2)?)?;
                let stride = self.decoration(id, None, Decoration::ArrayStride);
                let each = match stride {
                    Some(stride) => stride.into(),
                    None => inner(1)?,
                };
                each.checked_mul(length)
            }
            Op::TypeStruct => {
                let mut end = 0_u64;
                for (member, of) in (0..).zip(one.rest(1)) {
                    let offset = self.decoration(id, Some(member), Decoration::Offset);
                    let after = offset
                        .map_or(end, u64::from)
                        .checked_add(*self.sizes.get(of)?)?;
                    end = end.max(after);
                }
                Some(end)
            }
            _ => None,
        }
    }

    /// Module-scope variables: id, storage class and the type pointed to.
    fn variables(&self) -> impl Iterator<Item = (u32, StorageClass, u32)> {
        self.declared.iter().filter_map(|(id, one)| {
            let class = StorageClass::from_u32(one.word(2)?)?;
            let pointer = self.declared.get(&one.word(0)?)?;
            let pointee = pointer.word(2)?;
            let is_pointer = one.op == Op::Variable && pointer.op == Op::TypePointer;
            is_pointer.then_some((*id, class, pointee))
        })
    }

    fn bindings(&self, private: &BTreeSet<u32>) -> Vec<Bound> {
        let mut found: BTreeMap<(u32, u32), Bound> = BTreeMap::new();
        for (id, class, pointee) in self.variables() {
            let Some(number) = self.decoration(id, None, Decoration::Binding) else {
                continue;
            };
            let set = self
                .decoration(id, None, Decoration::DescriptorSet)
                .unwrap_or(0);
            let structure = self.declared.get(&pointee);
            let members = structure.map_or(0, |one| one.rest(1).len() as u32);
            let all = |wanted| {
                self.has(id, None, wanted)
                    || members > 0
                        && (0..members).all(|member| self.has(pointee, Some(member), wanted))
            };
            let is_block = structure.is_some_and(|one| one.op == Op::TypeStruct);
            let bound = found.entry((set, number)).or_insert(Bound {
                set,
                number,
                storage: true,
                reads: false,
                writes: false,
                private: false,
            });
            bound.storage &= is_block && class == StorageClass::StorageBuffer;
            bound.reads |= !all(Decoration::NonReadable);
            bound.writes |= !all(Decoration::NonWritable);
            bound.private |= private.contains(&id);
        }
        found.into_values().collect()
    }

    fn push(&self) -> Result<Option<PushBlock>, ReflectError> {
        let mut blocks = self
            .variables()
            .filter(|(_, class, _)| *class == StorageClass::PushConstant);
        let Some((_, _, block)) = blocks.next() else {
            return Ok(None);
        };
        let layout = || {
            let bytes = *self.sizes.get(&block)?;
            let structure = self.declared.get(&block)?;
            let mut members = Vec::new();
            for (member, of) in (0..).zip(structure.rest(1)) {
                let offset = self.decoration(block, Some(member), Decoration::Offset)?;
                members.push((offset, self.scalar(*of)));
            }
            Some(PushBlock { bytes, members })
        };
        layout().map(Some).ok_or(ReflectError::PushLayout)
    }

    fn scalar(&self, id: u32) -> Option<Scalar> {
        let one = self.declared.get(&id)?;
        match (one.op, one.word(1), one.word(2)) {
            (Op::TypeBool, ..) => Some(Scalar::Bool),
            (Op::TypeFloat, Some(32), _) => Some(Scalar::F32),
            (Op::TypeInt, Some(32), Some(0)) => Some(Scalar::U32),
            (Op::TypeInt, Some(32), Some(_)) => Some(Scalar::I32),
            _ => None,
        }
    }

    fn spec_constants(&self) -> BTreeMap<u32, Scalar> {
        let constants = self.declared.iter().filter_map(|(id, one)| {
            let number = self.decoration(*id, None, Decoration::SpecId)?;
            Some((number, self.scalar(one.word(0)?)?))
        });
        constants.collect()
    }

    fn shared_bytes(&self) -> Option<u64> {
        let mut total = 0_u64;
        for (_, class, pointee) in self.variables() {
            if class == StorageClass::Workgroup {
                total = total.checked_add(*self.sizes.get(&pointee)?)?;
            }
        }
        Some(total)
    }

    /// A constant decorated as the workgroup size wins over the execution modes.
    fn local_size(&self, global: &[Instruction]) -> Result<[u32; 3], ReflectError> {
        let built_in = (Decoration::BuiltIn, Some(BuiltIn::WorkgroupSize as u32));
        let decorated = self.decorations.iter();
        let decorated = decorated
            .filter(|((_, member), list)| member.is_none() && list.contains(&built_in))
            .find_map(|((id, _), _)| self.declared.get(id));
        let of_ids = |ids: &[u32]| -> Option<[u32; 3]> {
            let ids = <&[u32; 3]>::try_from(ids).ok()?;
            let mut size = [0; 3];
            for (axis, id) in size.iter_mut().zip(ids) {
                *axis = u32::try_from(*self.values.get(id)?).ok()?;
            }
            Some(size)
        };
        let of_mode = |one: &Instruction| match (one.op, ExecutionMode::from_u32(one.word(1)?)?) {
            (Op::ExecutionMode, ExecutionMode::LocalSize) => one.rest(2).try_into().ok(),
            (Op::ExecutionModeId, ExecutionMode::LocalSizeId) => of_ids(one.rest(2)),
            _ => None,
        };
        let constant = decorated.and_then(|one| of_ids(one.rest(2)));
        let size = constant.or_else(|| global.iter().find_map(of_mode));
        size.filter(|size| size.iter().all(|axis| *axis > 0))
            .ok_or(ReflectError::LocalSize)
    }
}

fn literal(words: &[u32]) -> Option<u64> {
    match words {
        [low] => Some((*low).into()),
        [low, high] => Some(u64::from(*high) << 32 | u64::from(*low)),
        _ => None,
    }
}
