// Block formats: groups of 32 neighbours of a row share a scale (int8), or a scale and a minimum (int4).
// A buffer of `elements` holds all small integers first and then what the groups share, so that it is bound
// twice: as words, and as f16 (int8) or pairs of f16 (int4).

// Four int8 of one word.
vec4 int8_values(uint word) {
    return vec4(bitfieldExtract(int(word), 0, 8), bitfieldExtract(int(word), 8, 8), bitfieldExtract(int(word), 16, 8),
                bitfieldExtract(int(word), 24, 8));
}

// Four int4 of the low half of a word.
vec4 int4_values(uint word) {
    return vec4(word & 15, word >> 4 & 15, word >> 8 & 15, word >> 12 & 15);
}

// Four values of a group of int8 as one word, and the scale of a group whose largest value is `largest`: the smallest
// that reaches it. It is NaN where `finite` is false, so that a value that was none does not become one.
float int8_scale(float largest, bool finite) {
    float scale = finite ? largest / 127.0 : uintBitsToFloat(0x7fc00000u);
    // As it is stored. Devices may round to f16 as they like, so this rounds to its 11 bits first, halves to even, as
    // the others do; adding cannot reach the bits of NaN from those of a number.
    uint bits = floatBitsToUint(scale);
    bits = bits + 0xfff + (bits >> 13 & 1) & ~0x1fffu;
    return unpackHalf2x16(packHalf2x16(vec2(uintBitsToFloat(bits), 0.0))).x;
}

uint int8_word(vec4 values, float scale) {
    vec4 levels = scale > 0.0 ? values * (1.0 / scale) : vec4(0.0);
    // To the nearest, halves away from zero.
    ivec4 whole = ivec4(clamp(sign(levels) * floor(abs(levels) + 0.5), -128.0, 127.0)) & 255;
    return uint(whole.x | whole.y << 8 | whole.z << 16 | whole.w << 24);
}

// Where the numbers that groups share begin among the f16, or pairs of f16, of a buffer of `elements`.
uint int8_shared(uint elements) {
    return elements / 2;
}

uint int4_shared(uint elements) {
    return elements / 8;
}

// Where those of the group that holds element `element` stand.
uint int8_group(uint elements, uint element) {
    return int8_shared(elements) + element / 32;
}

uint int4_group(uint elements, uint element) {
    return int4_shared(elements) + element / 32;
}
