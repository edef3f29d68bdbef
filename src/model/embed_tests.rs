//! Streams of texts over a stand-in that echoes what it is given.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::model::bucket::{MAX_ROWS, ladder};

/// Gives each sequence the embedding [its first id, its length] and keeps count of what is in flight.
#[derive(Default)]
struct Echo {
    in_flight: usize,
    most_in_flight: usize,
    submits: Vec<(Bucket, usize)>,
    poison: Option<u32>,
}

impl Runner for Echo {
    type Ticket = Vec<[f32; 2]>;
    fn submit(&mut self, bucket: Bucket, sequences: &[&[u32]]) -> Result<Self::Ticket, BoxError> {
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        self.submits.push((bucket, sequences.len()));
        let embed = |ids: &&[u32]| {
            let first = if self.poison == Some(ids[0]) {
                f32::NAN
            } else {
                ids[0] as f32
            };
            [first, ids.len() as f32]
        };
        Ok(sequences.iter().map(embed).collect())
    }
    fn collect(
        &mut self,
        ticket: Self::Ticket,
        rows: usize,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), BoxError> {
        self.in_flight -= 1;
        ticket
            .iter()
            .take(rows)
            .enumerate()
            .for_each(|(row, embedding)| take(row, embedding));
        Ok(())
    }
    fn first_not_finite(
        &mut self,
        bucket: Bucket,
        sequence: &[u32],
    ) -> Result<Option<NotFinite>, BoxError> {
        assert_eq!(sequence.first().copied(), self.poison);
        assert!(sequence.len() <= bucket.seq as usize);
        Ok(Some(NotFinite {
            entry: bucket.to_string(),
            pass: "pool".into(),
            kernel: "pool/plain".into(),
            source: ("graphs/models/bert.ron".into(), 30, 9),
            tensor: "embedding".into(),
            index: vec![0, 0],
            value: f32::NAN,
        }))
    }
}

fn windows(count: u64, size: u64) -> Vec<Result<Window, EmbedError>> {
    (0..count.div_ceil(size))
        .map(|index| {
            let first = index * size + 1;
            let length = |input: u64| 1 + (input * 37 % 300) as usize;
            let tokens = (first..=count.min(first + size - 1))
                .map(|input| Tokens {
                    ids: vec![input as u32; length(input)],
                    truncated: input % 10 == 0,
                })
                .collect();
            Ok(Window {
                first,
                tokens,
                last: false,
            })
        })
        .collect()
}

fn run(
    echo: &mut Echo,
    windows: Vec<Result<Window, EmbedError>>,
) -> (Vec<[f32; 2]>, Result<Report, EmbedError>) {
    let mut out = vec![];
    let report = embed(
        echo,
        &ladder(512, MAX_ROWS),
        100,
        windows.into_iter(),
        &mut |input, embedding| {
            assert_eq!(input, out.len() as u64 + 1, "in input order");
            out.push([embedding[0], embedding[1]]);
            Ok(())
        },
    );
    (out, report)
}

#[test]
fn embeddings_come_in_input_order_with_two_batches_in_flight() {
    let mut echo = Echo::default();
    let (out, report) = run(&mut echo, windows(500, 90));
    let expected: Vec<[f32; 2]> = (1..=500)
        .map(|input| [input as f32, (1 + input * 37 % 300) as f32])
        .collect();
    assert_eq!(out, expected);
    let report = report.unwrap();
    assert_eq!((report.inputs, report.truncated), (500, 50));
    assert_eq!(report.batches, echo.submits.len() as u64);
    assert_eq!((echo.most_in_flight, echo.in_flight), (2, 0));
}

#[test]
fn an_embedding_that_is_not_finite_names_its_input() {
    let mut echo = Echo {
        poison: Some(7),
        ..Echo::default()
    };
    let (_, report) = run(&mut echo, windows(20, 20));
    let error = report.unwrap_err();
    assert!(
        matches!(
            &error,
            EmbedError::NotFinite {
                input: 7,
                index: 0,
                found: Some(found),
                ..
            } if found.pass == "pool"
        ),
        "{error}"
    );
}

/// Only who computes in f16 is told to try f32.
#[test]
fn advice_is_not_what_was_done_already() {
    let error = EmbedError::NotFinite {
        input: 1,
        index: 0,
        value: f32::NAN,
        found: None,
    };
    let advice = |dtype| error.advice(&[("act".to_string(), dtype)].into()).unwrap();
    assert!(advice(DType::F16).contains("try --dtype f32"));
    assert!(!advice(DType::F32).contains("--dtype"));
    let other = EmbedError::NoBucket {
        input: 1,
        tokens: 2,
    };
    assert_eq!(other.advice(&BTreeMap::new()), None);
}

#[test]
fn inputs_before_a_failure_are_delivered() {
    let mut all = windows(10, 5);
    all.push(Err(EmbedError::Source("line 11 is not UTF-8".into())));
    let (out, report) = run(&mut Echo::default(), all);
    assert_eq!(out.len(), 10);
    assert_eq!(report.unwrap_err().to_string(), "line 11 is not UTF-8");
}

#[test]
fn a_text_longer_than_every_bucket_is_named() {
    let tokens = vec![
        Tokens {
            ids: vec![1],
            truncated: false,
        },
        Tokens {
            ids: vec![1; 513],
            truncated: false,
        },
    ];
    let (_, report) = run(
        &mut Echo::default(),
        vec![Ok(Window {
            first: 5,
            tokens,
            last: true,
        })],
    );
    assert!(matches!(
        report.unwrap_err(),
        EmbedError::NoBucket {
            input: 6,
            tokens: 513
        }
    ));
}

#[test]
fn windows_grow_and_are_bounded_by_count_and_bytes() {
    let texts = |count: usize, bytes: usize| (0..count).map(move |_| Ok("x".repeat(bytes)));
    let (small, end) = read_window(&mut texts(100, 1), 64);
    assert!(small.len() == 64 && matches!(end, End::Full));
    let (wide, end) = read_window(&mut texts(100, WINDOW_BYTES / 2), 64);
    assert!(wide.len() == 2 && matches!(end, End::Full));
    let (rest, end) = read_window(&mut texts(3, 1), 64);
    assert!(rest.len() == 3 && matches!(end, End::OfStream));
}
