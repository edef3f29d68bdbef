//! Generation over a stand-in that keeps the promises of the kernels `step_begin` and `sample`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::codes::model as codes;
use crate::model::embed::BoxError;
use crate::plan::finite::NotFinite;

/// A model whose next token depends on the whole cache of its slot: the sum of (token + 1) * (position + 3),
/// modulo 97. A wrong position, a lost token or a foreign slot changes every later token.
struct Machine {
    steps: usize,
    context: usize,
    cache: Vec<Vec<Option<u32>>>,
    /// Last token, next position, done.
    progress: Vec<(u32, u32, bool)>,
    in_flight: usize,
    most_in_flight: usize,
    prefills: Vec<(u32, u32, usize)>,
    submits: usize,
    /// Gives this instead of the token at the position.
    bad: Option<(u32, u32)>,
}

impl Machine {
    fn new(shape: &Shape) -> Self {
        Self {
            steps: shape.steps as usize,
            context: shape.context as usize,
            cache: vec![vec![None; shape.context as usize]; shape.batch as usize],
            progress: vec![(0, 0, true); shape.batch as usize],
            in_flight: 0,
            most_in_flight: 0,
            prefills: vec![],
            submits: 0,
            bad: None,
        }
    }
}

fn next(tokens: impl Iterator<Item = u32>) -> u32 {
    tokens
        .zip(0..)
        .map(|(token, position)| (token + 1) * (position + 3))
        .sum::<u32>()
        % 97
}

impl Runner for Machine {
    type Ticket = Vec<u32>;

    fn prefill(&mut self, chunk: &Chunk<'_>) -> Result<(), BoxError> {
        assert!(self.in_flight == 0, "a prefill must not push out a result");
        assert!(chunk.tokens.len() <= chunk.size as usize && !chunk.tokens.is_empty());
        self.prefills
            .push((chunk.size, chunk.first, chunk.tokens.len()));
        for (token, position) in chunk.tokens.iter().zip(chunk.first as usize..) {
            self.cache[chunk.slot as usize][position] = Some(*token);
        }
        Ok(())
    }

    fn decode(&mut self, rows: &[Row], stops: &[u32; DEVICE_STOPS]) -> Result<Vec<u32>, BoxError> {
        assert_eq!(rows.len(), self.cache.len());
        self.in_flight += 1;
        self.submits += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        let mut tokens = vec![];
        for (slot, row) in rows.iter().enumerate() {
            for step in 0..self.steps {
                let (mut token, mut position, mut done) = self.progress[slot];
                if step == 0 && row.fresh {
                    (token, position, done) = (row.id, row.position, false);
                }
                if done || position >= row.limit {
                    self.progress[slot] = (NONE, position, true);
                    tokens.push(NONE);
                    continue;
                }
                assert!((position as usize) < self.context, "wrapped around");
                self.cache[slot][position as usize] = Some(token);
                let seen = self.cache[slot][..=position as usize].iter();
                let mut picked = next(seen.map(|token| token.expect("a hole in the cache")));
                if let Some((_, bad)) = self.bad.filter(|(at, _)| *at == position) {
                    picked = bad;
                }
                done = stops.contains(&picked) || position + 1 >= row.limit || picked >= NOT_FINITE;
                self.progress[slot] = (picked, position + 1, done);
                tokens.push(picked);
            }
        }
        Ok(tokens)
    }

    fn collect(&mut self, tokens: Vec<u32>) -> Result<Vec<u32>, BoxError> {
        self.in_flight -= 1;
        Ok(tokens)
    }

    /// Puts what it was asked to run again where the values belong.
    fn first_not_finite(&mut self, replay: &Replay<'_>) -> Result<Option<NotFinite>, BoxError> {
        assert_eq!(self.in_flight, 0, "a submit may still use the cache");
        Ok(Some(NotFinite {
            entry: format!("{:?}", replay.tokens),
            pass: replay.prompt.to_string(),
            kernel: replay.slot.to_string(),
            source: ("layers.ron".into(), 3, 7),
            tensor: "h".into(),
            index: vec![0, 2],
            value: f32::INFINITY,
        }))
    }
}

fn shape(batch: u32, steps: u32, context: u32) -> Shape {
    Shape {
        batch,
        steps,
        context,
        chunks: vec![8, 4],
    }
}

fn sequence(prompt: &[u32], max_tokens: u32) -> Sequence {
    Sequence {
        prompt: prompt.to_vec(),
        cached: 0,
        max_tokens,
        sampling: Sampling::GREEDY,
    }
}

/// What the model writes, without any machinery.
fn expected(sequence: &Sequence, stops: &[u32], context: u32) -> (Vec<u32>, Finish) {
    let mut tokens = sequence.prompt.clone();
    let mut out = vec![];
    loop {
        let token = next(tokens.iter().copied());
        if stops.contains(&token) {
            return (out, Finish::Stop);
        }
        out.push(token);
        tokens.push(token);
        if out.len() == sequence.max_tokens as usize {
            return (out, Finish::MaxTokens);
        }
        if tokens.len() > context as usize {
            return (out, Finish::ContextFull);
        }
    }
}

type Done = Vec<(Vec<u32>, Option<Finish>)>;

fn run(
    machine: &mut Machine,
    shape: &Shape,
    sequences: &[Sequence],
    stops: &[u32],
) -> Result<(Done, Report), GenerateError> {
    let mut done = vec![(vec![], None); sequences.len()];
    let report = generate(
        machine,
        shape,
        sequences,
        stops,
        &AtomicBool::new(false),
        &mut |event| {
            match event {
                Event::Token { sequence, id } => {
                    assert_eq!(done[sequence].1, None, "a token after the end");
                    done[sequence].0.push(id);
                }
                Event::Finished { sequence, finish } => done[sequence].1 = Some(finish),
            }
            Ok(())
        },
    )?;
    assert_eq!(machine.in_flight, 0);
    Ok((done, report))
}

#[test]
fn texts_do_not_depend_on_steps_batch_or_chunks() {
    arbtest::arbtest(|u| {
        let context = u.int_in_range(12..=40)?;
        let count = u.int_in_range(0..=7usize)?;
        let mut sequences = vec![];
        for _ in 0..count {
            let length = u.int_in_range(1..=context - 1)?;
            let prompt: Vec<u32> = (0..length)
                .map(|_| u.int_in_range(0..=96))
                .collect::<Result<_, _>>()?;
            sequences.push(sequence(&prompt, u.int_in_range(1..=30)?));
        }
        let stops: Vec<u32> = (0..u.int_in_range(0..=12)?).map(|n| n * 7).collect();
        let shape = shape(u.int_in_range(1..=4)?, u.int_in_range(1..=9)?, context);
        let mut machine = Machine::new(&shape);
        let (done, report) = run(&mut machine, &shape, &sequences, &stops).unwrap();
        for (sequence, (tokens, finish)) in sequences.iter().zip(&done) {
            let (want, how) = expected(sequence, &stops, context);
            assert_eq!(
                (tokens, *finish),
                (&want, Some(how)),
                "{shape:?} {sequence:?}"
            );
        }
        assert!(machine.most_in_flight <= IN_FLIGHT);
        assert_eq!(report.sequences, count as u64);
        Ok(())
    })
    .budget_ms(500);
}

#[test]
fn two_submits_are_in_flight_and_none_is_in_vain() {
    let shape = shape(1, 4, 100);
    let mut machine = Machine::new(&shape);
    let (done, report) = run(&mut machine, &shape, &[sequence(&[1, 2, 3], 16)], &[]).unwrap();
    assert_eq!(done[0].0.len(), 16);
    assert_eq!((machine.most_in_flight, machine.submits), (2, 4));
    assert_eq!((report.prefills, report.submits, report.tokens), (1, 4, 16));
}

#[test]
fn a_prompt_is_cut_into_chunks_and_one_token() {
    assert!(chunks(0, &CHUNKS).is_empty());
    assert_eq!(chunks(1, &CHUNKS), [8]);
    assert_eq!(chunks(8, &CHUNKS), [8]);
    assert_eq!(chunks(9, &CHUNKS), [32]);
    assert_eq!(chunks(33, &CHUNKS), [32, 8]);
    assert_eq!(chunks(128 + 40, &CHUNKS), [128, 32, 8]);
    assert_eq!(chunks(95, &CHUNKS), [32, 32, 32]);
    assert_eq!(chunks(100, &CHUNKS), [128]);
    assert_eq!(chunks(2048 + 600, &CHUNKS), [2048, 512, 32, 32, 32]);
    assert_eq!(chunks(70, &[32]), [32, 32, 32]);
    let shape = shape(1, 1, 100);
    let mut machine = Machine::new(&shape);
    run(&mut machine, &shape, &[sequence(&[5; 14], 1)], &[]).unwrap();
    assert_eq!(machine.prefills, [(8, 0, 8), (8, 8, 5)]);
}

#[test]
fn a_full_context_is_a_clear_end() {
    let shape = shape(1, 3, 8);
    let mut machine = Machine::new(&shape);
    let (done, _) = run(&mut machine, &shape, &[sequence(&[1; 7], 100)], &[]).unwrap();
    // Positions 6 and 7 are processed, and each gives a token.
    assert_eq!((done[0].0.len(), done[0].1), (2, Some(Finish::ContextFull)));
}

#[test]
fn prompts_that_cannot_be_continued() {
    let shape = shape(1, 1, 8);
    let mut machine = Machine::new(&shape);
    let empty = run(
        &mut machine,
        &shape,
        &[sequence(&[1], 1), sequence(&[], 1)],
        &[],
    )
    .unwrap_err();
    assert!(matches!(empty, GenerateError::Empty { sequence: 2 }));
    let long = run(&mut machine, &shape, &[sequence(&[1; 8], 1)], &[]).unwrap_err();
    assert!(matches!(
        long,
        GenerateError::TooLong {
            tokens: 8,
            context: 8,
            ..
        }
    ));
    assert_eq!(long.code(), Some(codes::PROMPT));
    assert_eq!(machine.submits, 0, "found before any work is done");
}

#[test]
fn scores_that_are_not_finite_name_the_place() {
    let shape = shape(2, 2, 20);
    let mut machine = Machine::new(&shape);
    machine.bad = Some((5, NOT_FINITE));
    let others = [sequence(&[7, 7, 7, 7, 7, 7, 7], 1), sequence(&[1, 2], 9)];
    let error = run(&mut machine, &shape, &others, &[]).unwrap_err();
    let (written, _) = expected(&others[1], &[], shape.context);
    let seen = [&[1, 2][..], &written[..4]].concat();
    assert_eq!(
        error.to_string(),
        format!(
            "the scores of token 5 of sequence 2 hold NaN or infinity, so no token can be chosen\n\
             the first such value: pass `2` (kernel 1, layers.ron:3:7) of entry `{seen:?}` wrote inf: `h`[0, 2]"
        )
    );
    assert_eq!(machine.in_flight, 0);
    machine.bad = Some((5, NONE));
    let error = run(&mut machine, &shape, &[sequence(&[1, 2], 9)], &[]).unwrap_err();
    assert!(matches!(error, GenerateError::Device { .. }), "{error}");
}

#[test]
fn an_interruption_ends_what_runs_after_the_tokens_that_came() {
    let shape = shape(1, 2, 1000);
    let mut machine = Machine::new(&shape);
    let flag = AtomicBool::new(false);
    let mut events = vec![];
    generate(
        &mut machine,
        &shape,
        &[sequence(&[1, 2], 900), sequence(&[3], 5)],
        &[],
        &flag,
        &mut |event| {
            events.push(event);
            flag.store(true, Ordering::Relaxed);
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(
        events.last(),
        Some(&Event::Finished {
            sequence: 0,
            finish: Finish::Interrupted
        })
    );
    assert_eq!(
        events.len(),
        5,
        "two submits of two tokens each were in flight"
    );
    assert_eq!(machine.in_flight, 0);
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let shape = shape(1, 2, 100);
    let mut machine = Machine::new(&shape);
    let first = sequence(&[4, 5, 6], 5);
    let (done, _) = run(&mut machine, &shape, std::slice::from_ref(&first), &[]).unwrap();
    // The last token that was written is not in the cache: nothing was computed from it.
    let mut second = sequence(&[&first.prompt[..], &done[0].0, &[7, 8]].concat(), 5);
    let want = expected(&second, &[], 100);
    second.cached = first.prompt.len() + 4;
    machine.prefills.clear();
    let (done, report) = run(&mut machine, &shape, &[second], &[]).unwrap();
    assert_eq!((&done[0].0, done[0].1), (&want.0, Some(want.1)));
    assert_eq!(
        (report.prompt_tokens, &machine.prefills[..]),
        (3, &[(4, 7, 2)][..])
    );
}
