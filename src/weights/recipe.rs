//! Packing recipes: from a checkpoint's tensors to the rows of one weight.
//!
//! In: a [`Recipe`] and the shape that the plan wants. [`ResolvedRecipe::new`] finds the tensors and checks every
//! shape, so that what is left cannot fail. Out: any rectangle of the result as f32
//! ([`ResolvedRecipe::fill`]); nothing is materialised as a whole, and the extra memory of a rectangle is at most
//! its own size for each `Transpose` and `Sum` around it.
//!
//! A tensor counts as a matrix: its first dimension gives the rows, the product of the others the columns. Of a
//! list of numbers every number is a row.

use std::ops::Range;

use super::checkpoint::{Checkpoint, TensorRef};
use super::{WeightError, convert, shape_text, types};
use crate::graph::Recipe;

/// Deepest nesting of a recipe. Graph files cannot come near it; a damaged plan could.
const MAX_DEPTH: u32 = 32;

/// A recipe whose tensors are found and whose shapes agree.
#[derive(Debug)]
pub struct ResolvedRecipe<'a> {
    shape: Vec<u64>,
    rows: u64,
    cols: u64,
    step: Step<'a>,
}

#[derive(Debug)]
enum Step<'a> {
    Tensor(TensorRef<'a>),
    Concat(Vec<ResolvedRecipe<'a>>),
    Interleave(Vec<ResolvedRecipe<'a>>),
    Slice(Box<ResolvedRecipe<'a>>, u64),
    Transpose(Box<ResolvedRecipe<'a>>),
    PairHalves(Box<ResolvedRecipe<'a>>, u64),
    Sum(Vec<ResolvedRecipe<'a>>),
    Plus(Box<ResolvedRecipe<'a>>, f64),
}

impl<'a> ResolvedRecipe<'a> {
    /// Finds the tensors of `recipe` and checks that it makes a tensor of the shape `wanted`. `weight` names the
    /// plan's weight in errors.
    pub fn new(
        recipe: &Recipe,
        wanted: &[u64],
        weight: &str,
        checkpoint: &'a Checkpoint,
    ) -> Result<Self, WeightError> {
        let resolver = Resolver { weight, checkpoint };
        let resolved = resolver.resolve(recipe, 0)?;
        if resolved.shape != wanted {
            return Err(resolver.shape_error(
                recipe,
                format!("{} as the plan has it", shape_text(wanted)),
                &resolved,
            ));
        }
        Ok(resolved)
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The number of elements in a row.
    pub fn cols(&self) -> u64 {
        self.cols
    }

    /// Writes the rectangle `rows` x `cols` to `out`, row after row. It lies inside, and `out` has its size.
    pub fn fill(&self, rows: Range<u64>, cols: Range<u64>, out: &mut [f32]) {
        let width = (cols.end - cols.start) as usize;
        if width == 0 || out.is_empty() {
            return;
        }
        match &self.step {
            Step::Tensor(tensor) => self.read(tensor, rows, cols, out),
            Step::Concat(parts) => {
                let mut first = 0;
                let mut rest = out;
                for part in parts {
                    let inside = rows.start.max(first)..rows.end.min(first + part.rows);
                    if inside.start < inside.end {
                        let count = (inside.end - inside.start) as usize * width;
                        let (mine, others) = rest.split_at_mut(count);
                        part.fill(inside.start - first..inside.end - first, cols.clone(), mine);
                        rest = others;
                    }
                    first += part.rows;
                }
            }
            Step::Interleave(parts) => {
                for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                    let part = &parts[(row % parts.len() as u64) as usize];
                    let row = row / parts.len() as u64;
                    part.fill(row..row + 1, cols.clone(), out);
                }
            }
            Step::Slice(of, start) => of.fill(rows.start + start..rows.end + start, cols, out),
            Step::PairHalves(of, group) => {
                for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                    let row = row - row % group + unpaired(row % group, *group);
                    of.fill(row..row + 1, cols.clone(), out);
                }
            }
            Step::Transpose(of) => {
                let height = (rows.end - rows.start) as usize;
                let mut across = vec![0.0; out.len()];
                of.fill(cols, rows, &mut across);
                for (row, out) in out.chunks_exact_mut(width).enumerate() {
                    for (col, value) in out.iter_mut().enumerate() {
                        *value = across[col * height + row];
                    }
                }
            }
            Step::Sum(parts) => sum(parts, rows, cols, out),
            Step::Plus(of, number) => {
                of.fill(rows, cols, out);
                for value in out {
                    *value = (f64::from(*value) + number) as f32;
                }
            }
        }
    }

    fn read(&self, tensor: &TensorRef<'_>, rows: Range<u64>, cols: Range<u64>, out: &mut [f32]) {
        if cols.end - cols.start == self.cols {
            let elements = rows.start * self.cols..rows.end * self.cols;
            convert::widen(tensor.dtype, tensor.part(elements), out);
            return;
        }
        let block = tensor.dtype.block().map_or(1, |block| block.elements);
        let width = (cols.end - cols.start) as usize;
        // Rows are whole blocks, but the wanted columns may cut some.
        let whole = cols.start / block * block..cols.end.next_multiple_of(block);
        let skip = (cols.start - whole.start) as usize;
        let mut decoded = vec![0.0; (whole.end - whole.start) as usize];
        for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
            let elements = row * self.cols + whole.start..row * self.cols + whole.end;
            let bytes = tensor.part(elements);
            if decoded.len() == width {
                convert::widen(tensor.dtype, bytes, out);
            } else {
                convert::widen(tensor.dtype, bytes, &mut decoded);
                out.copy_from_slice(&decoded[skip..skip + width]);
            }
        }
    }

    /// The tensor and its row that row `row` is a copy of; `None` where rows are computed or turned.
    pub(super) fn origin(&self, row: u64) -> Option<(&TensorRef<'a>, u64)> {
        match &self.step {
            Step::Tensor(tensor) => Some((tensor, row)),
            Step::Concat(parts) => {
                let mut row = row;
                for part in parts {
                    if row < part.rows {
                        return part.origin(row);
                    }
                    row -= part.rows;
                }
                None
            }
            Step::Interleave(parts) => {
                let count = parts.len() as u64;
                parts.get((row % count) as usize)?.origin(row / count)
            }
            Step::Slice(of, start) => of.origin(row + start),
            Step::PairHalves(of, group) => {
                of.origin(row - row % group + unpaired(row % group, *group))
            }
            Step::Transpose(_) | Step::Sum(_) | Step::Plus(..) => None,
        }
    }

    /// The tensor and its element that element (`row`, `col`) is a copy of, for messages.
    pub(super) fn source(&self, row: u64, col: u64) -> Option<(&TensorRef<'a>, Vec<u64>)> {
        if let Step::Transpose(of) = &self.step {
            return of.source(col, row);
        }
        let (tensor, row) = self.origin(row)?;
        // Back from row and column to an index per dimension.
        let mut rest = row * self.cols + col;
        let mut index = vec![0; tensor.shape.len()];
        for (at, size) in index.iter_mut().zip(tensor.shape).rev() {
            (*at, rest) = (rest % size, rest / size);
        }
        Some((tensor, index))
    }

    /// The tensors that it reads, by file, for messages.
    fn tensors(&self, out: &mut Vec<String>) {
        match &self.step {
            Step::Tensor(tensor) => out.push(tensor.file.display().to_string()),
            Step::Concat(parts) | Step::Interleave(parts) | Step::Sum(parts) => {
                parts.iter().for_each(|part| part.tensors(out));
            }
            Step::Slice(of, _)
            | Step::Transpose(of)
            | Step::PairHalves(of, _)
            | Step::Plus(of, _) => of.tensors(out),
        }
    }
}

/// Row `i` of a group after pairing comes from this row before: even ones from the first half, odd ones from the
/// second.
fn unpaired(i: u64, group: u64) -> u64 {
    i / 2 + (i % 2) * (group / 2)
}

fn sum(parts: &[ResolvedRecipe<'_>], rows: Range<u64>, cols: Range<u64>, out: &mut [f32]) {
    let width = (cols.end - cols.start) as usize;
    let total = parts.iter().map(|part| part.rows).max().unwrap_or(0);
    out.fill(0.0);
    let mut term = vec![0.0; out.len()];
    for part in parts {
        if part.rows == total {
            part.fill(rows.clone(), cols.clone(), &mut term);
            out.iter_mut()
                .zip(&term)
                .for_each(|(sum, value)| *sum += value);
        } else {
            let row = &mut term[..width];
            part.fill(0..1, cols.clone(), row);
            for out in out.chunks_exact_mut(width) {
                out.iter_mut()
                    .zip(&*row)
                    .for_each(|(sum, value)| *sum += value);
            }
        }
    }
}

struct Resolver<'a, 'b> {
    weight: &'b str,
    checkpoint: &'a Checkpoint,
}

impl<'a> Resolver<'a, '_> {
    fn resolve(&self, recipe: &Recipe, depth: u32) -> Result<ResolvedRecipe<'a>, WeightError> {
        if depth > MAX_DEPTH {
            return Err(self.error(
                recipe,
                format!("recipes are nested deeper than {MAX_DEPTH}"),
            ));
        }
        let inner = |recipe: &Recipe| self.resolve(recipe, depth + 1);
        let all =
            |parts: &[Recipe]| -> Result<Vec<_>, WeightError> { parts.iter().map(inner).collect() };
        match recipe {
            Recipe::Tensor(name) => self.tensor(recipe, name),
            Recipe::AnyOf(parts) => self.any_of(recipe, parts, depth),
            Recipe::Concat(parts) => {
                let resolved = all(parts)?;
                let rest = |part: &ResolvedRecipe<'_>| part.shape.get(1..).map(<[u64]>::to_vec);
                let (first, rest) =
                    self.alike(recipe, parts, &resolved, "rows like those of", rest)?;
                let rows = resolved
                    .iter()
                    .try_fold(0u64, |rows, part| rows.checked_add(part.rows));
                let Some(rows) = rows else {
                    return Err(self.error(recipe, "it has more rows than can be counted".into()));
                };
                let shape = [&[rows], rest.as_slice()].concat();
                let cols = first.cols;
                Ok(ResolvedRecipe {
                    shape,
                    rows,
                    cols,
                    step: Step::Concat(resolved),
                })
            }
            Recipe::Interleave(parts) => {
                let resolved = all(parts)?;
                let whole = |part: &ResolvedRecipe<'_>| {
                    (!part.shape.is_empty()).then(|| part.shape.clone())
                };
                let (first, mut shape) =
                    self.alike(recipe, parts, &resolved, "the shape of", whole)?;
                let Some(rows) = first.rows.checked_mul(resolved.len() as u64) else {
                    return Err(self.error(recipe, "it has more rows than can be counted".into()));
                };
                let cols = first.cols;
                shape[0] = rows;
                Ok(ResolvedRecipe {
                    shape,
                    rows,
                    cols,
                    step: Step::Interleave(resolved),
                })
            }
            Recipe::Slice { of, start, count } => self.slice(recipe, inner(of)?, *start, *count),
            Recipe::Transpose(of) => {
                let of = inner(of)?;
                if of.shape.len() != 2 {
                    return Err(self.shape_error(recipe, "two dimensions to exchange".into(), &of));
                }
                Ok(ResolvedRecipe {
                    shape: vec![of.cols, of.rows],
                    rows: of.cols,
                    cols: of.rows,
                    step: Step::Transpose(Box::new(of)),
                })
            }
            Recipe::PairHalves { of, group } => self.pair_halves(recipe, inner(of)?, *group),
            Recipe::Sum(parts) => self.sum(recipe, parts, all(parts)?),
            Recipe::Plus { of, bits } => {
                let of = inner(of)?;
                Ok(ResolvedRecipe {
                    shape: of.shape.clone(),
                    rows: of.rows,
                    cols: of.cols,
                    step: Step::Plus(Box::new(of), f64::from_bits(*bits)),
                })
            }
        }
    }

    fn tensor(&self, recipe: &Recipe, name: &str) -> Result<ResolvedRecipe<'a>, WeightError> {
        let Some(tensor) = self.checkpoint.tensor(name) else {
            return Err(self.missing(format!("tensor `{name}`"), self.checkpoint.nearest(name)));
        };
        if !tensor.dtype.readable() {
            return Err(self.error(
                recipe,
                format!(
                    "it has the type {} in {}; weights can be read from {}",
                    tensor.dtype,
                    tensor.file.display(),
                    types::READABLE
                ),
            ));
        }
        // The checkpoint has checked that the bytes are there, so these products cannot overflow unless the
        // tensor is empty; then they count as empty.
        let rows = tensor.shape.first().copied().unwrap_or(1);
        let cols = tensor
            .shape
            .iter()
            .skip(1)
            .try_fold(1u64, |cols, size| cols.checked_mul(*size))
            .unwrap_or(0);
        Ok(ResolvedRecipe {
            shape: tensor.shape.to_vec(),
            rows,
            cols,
            step: Step::Tensor(tensor),
        })
    }

    fn any_of(
        &self,
        recipe: &Recipe,
        parts: &[Recipe],
        depth: u32,
    ) -> Result<ResolvedRecipe<'a>, WeightError> {
        let present = parts.iter().find(|part| self.present(part, depth + 1));
        if let Some(part) = present {
            return self.resolve(part, depth + 1);
        }
        let mut names = Vec::new();
        leaves(recipe, depth, &mut names);
        names.retain(|name| self.checkpoint.tensor(name).is_none());
        let nearest = names
            .first()
            .map_or(vec![], |name| self.checkpoint.nearest(name));
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        Err(self.missing(format!("one of the tensors {}", names.join(", ")), nearest))
    }

    /// Whether the checkpoint has every tensor that `recipe` needs.
    fn present(&self, recipe: &Recipe, depth: u32) -> bool {
        if depth > MAX_DEPTH {
            return false;
        }
        match recipe {
            Recipe::Tensor(name) => self.checkpoint.tensor(name).is_some(),
            Recipe::AnyOf(parts) => parts.iter().any(|part| self.present(part, depth + 1)),
            Recipe::Concat(parts) | Recipe::Interleave(parts) | Recipe::Sum(parts) => {
                parts.iter().all(|part| self.present(part, depth + 1))
            }
            Recipe::Slice { of, .. }
            | Recipe::PairHalves { of, .. }
            | Recipe::Plus { of, .. }
            | Recipe::Transpose(of) => self.present(of, depth + 1),
        }
    }

    /// The first part and what `of` says about it, after checking that it says the same about all parts.
    fn alike<'r>(
        &self,
        recipe: &Recipe,
        parts: &[Recipe],
        resolved: &'r [ResolvedRecipe<'a>],
        what: &str,
        of: impl Fn(&ResolvedRecipe<'_>) -> Option<Vec<u64>>,
    ) -> Result<(&'r ResolvedRecipe<'a>, Vec<u64>), WeightError> {
        let Some(first) = resolved.first() else {
            return Err(self.error(recipe, "it has no parts".into()));
        };
        for (part, resolved) in parts.iter().zip(resolved) {
            let Some(shape) = of(resolved) else {
                return Err(self.shape_error(part, "at least one dimension".into(), resolved));
            };
            if Some(shape) != of(first) {
                let wanted = format!("{what} {} {}", name(&parts[0]), shape_text(&first.shape));
                return Err(self.shape_error(part, wanted, resolved));
            }
        }
        Ok((first, of(first).unwrap_or_default()))
    }

    fn slice(
        &self,
        recipe: &Recipe,
        of: ResolvedRecipe<'a>,
        start: u64,
        count: u64,
    ) -> Result<ResolvedRecipe<'a>, WeightError> {
        if of.shape.is_empty() || start.checked_add(count).is_none_or(|end| end > of.rows) {
            let wanted = format!("rows {start}..{start}+{count}");
            return Err(self.shape_error(recipe, wanted, &of));
        }
        let mut shape = of.shape.clone();
        shape[0] = count;
        let cols = of.cols;
        Ok(ResolvedRecipe {
            shape,
            rows: count,
            cols,
            step: Step::Slice(Box::new(of), start),
        })
    }

    fn pair_halves(
        &self,
        recipe: &Recipe,
        of: ResolvedRecipe<'a>,
        group: u64,
    ) -> Result<ResolvedRecipe<'a>, WeightError> {
        if group < 2 || !group.is_multiple_of(2) {
            return Err(self.error(recipe, format!("groups of {group} rows have no two halves")));
        }
        if of.shape.is_empty() || !of.rows.is_multiple_of(group) {
            return Err(self.shape_error(recipe, format!("a multiple of {group} rows"), &of));
        }
        Ok(ResolvedRecipe {
            shape: of.shape.clone(),
            rows: of.rows,
            cols: of.cols,
            step: Step::PairHalves(Box::new(of), group),
        })
    }

    fn sum(
        &self,
        recipe: &Recipe,
        parts: &[Recipe],
        resolved: Vec<ResolvedRecipe<'a>>,
    ) -> Result<ResolvedRecipe<'a>, WeightError> {
        let Some(largest) = resolved.iter().max_by_key(|part| part.rows) else {
            return Err(self.error(recipe, "it has no parts".into()));
        };
        let (shape, rows, cols) = (largest.shape.clone(), largest.rows, largest.cols);
        for (part, resolved) in parts.iter().zip(&resolved) {
            let one_row = resolved.rows == 1 && resolved.shape.get(1..) == shape.get(1..);
            if resolved.shape != shape && !one_row {
                let wanted = format!("{} or one row of it, to be added", shape_text(&shape));
                return Err(self.shape_error(part, wanted, resolved));
            }
        }
        Ok(ResolvedRecipe {
            shape,
            rows,
            cols,
            step: Step::Sum(resolved),
        })
    }

    fn missing(&self, wanted: String, nearest: Vec<String>) -> WeightError {
        WeightError::MissingTensor {
            weight: self.weight.to_string(),
            wanted,
            folder: self.checkpoint.folder().to_path_buf(),
            nearest,
        }
    }

    fn error(&self, part: &Recipe, reason: String) -> WeightError {
        WeightError::Recipe {
            weight: self.weight.to_string(),
            part: name(part),
            reason,
        }
    }

    fn shape_error(
        &self,
        part: &Recipe,
        wanted: String,
        found: &ResolvedRecipe<'_>,
    ) -> WeightError {
        let mut files = Vec::new();
        found.tensors(&mut files);
        files.dedup();
        WeightError::Shape {
            weight: self.weight.to_string(),
            part: name(part),
            wanted,
            found: format!("{} in {}", shape_text(&found.shape), files.join(", ")),
        }
    }
}

/// What a message calls a part of a recipe: the step and the first tensor under it.
fn name(recipe: &Recipe) -> String {
    let step = match recipe {
        Recipe::Tensor(name) => return format!("`{name}`"),
        Recipe::AnyOf(_) => "AnyOf",
        Recipe::Concat(_) => "Concat",
        Recipe::Interleave(_) => "Interleave",
        Recipe::Slice { .. } => "Slice",
        Recipe::Transpose(_) => "Transpose",
        Recipe::PairHalves { .. } => "PairHalves",
        Recipe::Sum(_) => "Sum",
        Recipe::Plus { .. } => "Plus",
    };
    let mut names = Vec::new();
    leaves(recipe, 0, &mut names);
    match names.as_slice() {
        [] => step.to_string(),
        [one] => format!("{step} of `{one}`"),
        [first, others @ ..] => format!("{step} of `{first}` and {} more", others.len()),
    }
}

/// The names of all tensors in a recipe, down to [`MAX_DEPTH`].
pub(super) fn leaves<'r>(recipe: &'r Recipe, depth: u32, out: &mut Vec<&'r str>) {
    if depth > MAX_DEPTH {
        return;
    }
    match recipe {
        Recipe::Tensor(name) => out.push(name),
        Recipe::AnyOf(parts)
        | Recipe::Concat(parts)
        | Recipe::Interleave(parts)
        | Recipe::Sum(parts) => {
            parts.iter().for_each(|part| leaves(part, depth + 1, out));
        }
        Recipe::Slice { of, .. }
        | Recipe::PairHalves { of, .. }
        | Recipe::Plus { of, .. }
        | Recipe::Transpose(of) => leaves(of, depth + 1, out),
    }
}
