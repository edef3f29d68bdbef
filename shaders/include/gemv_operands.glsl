// What the variants of `linear` for few rows share: w by 16 bytes, and how x lies in shared memory beside it.

const uint VECTORS = PER / 4;

// Invocations read PER / 4 neighbouring vectors of x each, so that vectors at the same distance meet the same banks of
// shared memory. Turning each run of eight vectors by its number spreads them.
uint place(uint vector) {
    return vector ^ (vector >> 3 & (VECTORS - 1));
}

// Four of the elements in 16 bytes of w, without what their group shares and divided by UNIT. Integers become the first
// bits of the mantissa of a number from 1 to 2, by a shift and a mask, and what was added is taken off: all exact.
#if W_INT4
const float UNIT = 16.0;
vec4 quants(uvec4 q, uint vector) {
    uint word = q[vector / 2] >> 16 * (vector % 2);
    return uintBitsToFloat(uvec4(word << 19, word << 15, word << 11, word << 7) & 0x780000 | 0x3f800000) - 1.0;
}
#elif W_INT8
const float UNIT = 256.0;
vec4 quants(uvec4 q, uint vector) {
    // Two's complement with the sign turned over counts from -128.
    uint word = q[vector] ^ 0x80808080;
    return uintBitsToFloat(uvec4(word << 15, word << 7, word >> 1, word >> 9) & 0x7f8000 | 0x3f800000) - 1.5;
}
#elif W_F16
vec4 quants(uvec4 q, uint vector) {
    return vec4(unpackHalf2x16(q[2 * vector]), unpackHalf2x16(q[2 * vector + 1]));
}
#else
vec4 quants(uvec4 q, uint vector) {
    return uintBitsToFloat(q);
}
#endif

// What the group of vector `vector` of w, of 16 bytes, shares, times UNIT where elements were divided by it.
#if W_INT4
#define GROUP vec2
GROUP group_at(uint index) {
    return vec2(w_scale[index]) * vec2(UNIT, 1.0);
}
#elif W_INT8
#define GROUP float
GROUP group_at(uint index) {
    return float(w_scale[index]) * UNIT;
}
#else
// Nothing.
#define GROUP uint
GROUP group_at(uint index) {
    return 0;
}
#endif

// Four of the elements in 16 bytes of w.
vec4 weights(uvec4 q, uint vector, GROUP shared_by) {
#if W_INT4
    return shared_by.x * quants(q, vector) + shared_by.y;
#elif W_INT8
    return shared_by * quants(q, vector);
#else
    return quants(q, vector);
#endif
}
