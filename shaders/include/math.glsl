// Activation functions in f32.

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| <= 1.5e-7, the size of f32 rounding.
float erf(float x) {
    float a = abs(x);
    float t = 1.0 / (1.0 + 0.3275911 * a);
    float poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - poly * exp(-a * a));
}

// Hendrycks and Gimpel 2016: x times the normal distribution function.
float gelu(float x) {
    return 0.5 * x * (1.0 + erf(x * 0.70710678118654752));
}

// The tanh form of the same paper. tanh u = 1 - 2 / (e^2u + 1) does not overflow into NaN.
float gelu_tanh(float x) {
    float u = 0.7978845608028654 * (x + 0.044715 * x * x * x);
    return x * (1.0 - 1.0 / (exp(2.0 * u) + 1.0));
}

float silu(float x) {
    return x / (1.0 + exp(-x));
}

// Rotary position embedding (Su et al. 2021): cosine and sine for the pair that starts at `column` of a head.
vec2 rotation(uint column, uint head_dim, float position, float theta) {
    float angle = position * pow(theta, -float(column) / float(head_dim));
    // Vulkan bounds the error of sin and cos inside [-pi, pi] only. 2 pi in two parts (Cody and Waite 1980): the first
    // has 9 bits, so its multiples are exact.
    float turns = round(angle * 0.15915494309189535);
    angle = (angle - turns * 6.28125) - turns * 0.0019353071795864769;
    return vec2(cos(angle), sin(angle));
}

vec2 rotated(vec2 pair, vec2 by) {
    return vec2(pair.x * by.x - pair.y * by.y, pair.y * by.x + pair.x * by.y);
}

// The adjacent pair that starts at `column` of a head.
vec2 rotate(vec2 pair, uint column, uint head_dim, float position, float theta) {
    return rotated(pair, rotation(column, head_dim, position, theta));
}
