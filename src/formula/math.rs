//! The functions of the formulas: what each is called and takes, and those that the standard library lacks.

use std::f64::consts::FRAC_2_SQRT_PI;

/// What a name in front of parentheses stands for.
#[derive(Clone, Copy)]
pub(super) enum Function {
    One(fn(f64) -> f64),
    Two(fn(f64, f64) -> f64),
    /// Of three numbers, see [`random`].
    Random,
    /// `if(c, a, b)`
    If,
    /// `has(port)`
    Has,
    /// `sum(p<k: ..)`, which is no call: there is no sum of arguments.
    Sum,
}

const FUNCTIONS: [(&str, Function); 18] = [
    ("exp", Function::One(f64::exp)),
    ("log", Function::One(f64::ln)),
    ("sqrt", Function::One(f64::sqrt)),
    ("rsqrt", Function::One(|a| 1.0 / a.sqrt())),
    ("tanh", Function::One(f64::tanh)),
    ("erf", Function::One(erf)),
    ("sin", Function::One(f64::sin)),
    ("cos", Function::One(f64::cos)),
    ("abs", Function::One(f64::abs)),
    ("floor", Function::One(f64::floor)),
    ("pow", Function::Two(f64::powf)),
    ("xor", Function::Two(xor)),
    // Unlike the methods of f64 these keep a NaN, so poison cannot hide behind them.
    (
        "min",
        Function::Two(|a, b| if a.is_nan() || a < b { a } else { b }),
    ),
    (
        "max",
        Function::Two(|a, b| if a.is_nan() || a > b { a } else { b }),
    ),
    ("random", Function::Random),
    ("if", Function::If),
    ("has", Function::Has),
    ("sum", Function::Sum),
];

impl Function {
    /// The function of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let found = FUNCTIONS.iter().find(|(known, _)| *known == name);
        found.map(|(_, function)| *function)
    }

    /// Every name, for "did you mean".
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        FUNCTIONS.iter().map(|(name, _)| *name)
    }

    /// How many arguments it takes.
    pub(super) fn takes(self) -> usize {
        match self {
            Self::One(_) | Self::Has => 1,
            Self::Two(_) => 2,
            Self::Random | Self::If => 3,
            Self::Sum => 0,
        }
    }
}

/// The error function. Abramowitz and Stegun 7.1.6, a series whose terms all have the sign of `x`, so nothing
/// cancels; from 6 on the result rounds to 1.
pub fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() >= 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let mut term = x;
    let mut total = x;
    let mut odd = 1.0;
    while term.abs() > total.abs() * (f64::EPSILON / 4.0) {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        total += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * total
}

/// Bitwise exclusive or of two 32-bit integers; NaN if one of them is none.
pub fn xor(a: f64, b: f64) -> f64 {
    match (word(a), word(b)) {
        (Some(a), Some(b)) => (a ^ b).into(),
        _ => f64::NAN,
    }
}

/// Noise in (0, 1) that three 32-bit integers decide; NaN if one of them is none. The first word of PCG3D (Jarzynski
/// and Olano 2020, "Hash Functions for GPU Rendering") over 2^32, cut to the 24 leading bits that an f32 holds, so that
/// shaders have the same number. Small values keep all of their bits: the tail is as fine as 2^-32.
pub fn random(keys: [f64; 3]) -> f64 {
    let [Some(a), Some(b), Some(c)] = keys.map(word) else {
        return f64::NAN;
    };
    let bits = pcg3d([a, b, c])[0].max(1);
    let tail = 8_u32.saturating_sub(bits.leading_zeros());
    f64::from(bits >> tail << tail) / 4_294_967_296.0
}

fn pcg3d(keys: [u32; 3]) -> [u32; 3] {
    let mut v = keys.map(|key| key.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let mix = |v: &mut [u32; 3]| {
        v[0] = v[0].wrapping_add(v[1].wrapping_mul(v[2]));
        v[1] = v[1].wrapping_add(v[2].wrapping_mul(v[0]));
        v[2] = v[2].wrapping_add(v[0].wrapping_mul(v[1]));
    };
    mix(&mut v);
    v = v.map(|word| word ^ (word >> 16));
    mix(&mut v);
    v
}

fn word(value: f64) -> Option<u32> {
    let word = value as u32;
    (f64::from(word) == value).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::{erf, random, xor};

    /// Mean, variance and lower tail of what should be uniform, along each of the three keys.
    #[test]
    fn random_is_uniform_along_every_key() {
        for key in 0..3 {
            let count = 40_000;
            let values = (0..count).map(|i| {
                let mut keys = [3.0, 4_294_967_295.0, 17.0];
                keys[key] = f64::from(i);
                random(keys)
            });
            let (mut sum, mut squares, mut below) = (0.0, 0.0, 0.0);
            for value in values {
                assert!(value > 0.0 && value < 1.0 && f64::from(value as f32) == value);
                sum += value;
                squares += value * value;
                below += f64::from(u8::from(value < 0.01));
            }
            let n = f64::from(count);
            // Five standard deviations of each.
            assert!((sum / n - 0.5).abs() < 5.0 * (1.0 / 12.0 / n).sqrt());
            assert!((squares / n - 1.0 / 3.0).abs() < 5.0 * (4.0 / 45.0 / n).sqrt());
            assert!((below / n - 0.01).abs() < 5.0 * (0.0099 / n).sqrt());
        }
        assert!(random([0.5, 0.0, 0.0]).is_nan() && xor(-1.0, 0.0).is_nan());
        assert_eq!(xor(12.0, 4_294_967_295.0), 4_294_967_283.0);
    }

    /// Values from the tables of Abramowitz and Stegun and, past their digits, from arithmetic with more of them.
    #[test]
    fn erf_is_right_to_fourteen_digits() {
        for (x, expected) in [
            (0.0, 0.0),
            (1e-9, 1.1283791670955126e-9),
            (0.5, 0.5204998778130465),
            (1.0, 0.8427007929497149),
            (2.0, 0.9953222650189527),
            (3.5, 0.9999992569016276),
            (7.0, 1.0),
        ] {
            assert!((erf(x) - expected).abs() <= 4e-15 * expected, "erf({x})");
            assert_eq!(erf(-x), -erf(x));
        }
        assert!(erf(f64::NAN).is_nan());
    }
}
