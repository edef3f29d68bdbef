// An element of x as two int8, 128 high + low, in units of a scale: 15 bits for the largest of those that share it.
const float LEVELS = 16256.0;
// Levels as the last 16 bits of a float, counted from -BIAS: the sum is rounded to where its last bit stands for one.
const float SHIFT = 8388608.0;
const uint BIAS = 128 * 128 + 64;
uvec4 levels_of(vec4 v, float levels) {
    return floatBitsToUint(fma(v, vec4(levels), vec4(SHIFT + float(BIAS))));
}

// high and low of four of them, each a word.
uvec2 parts_of(uvec4 bits) {
    uvec2 two = bitfieldInsert(bits.xy, bits.zw, 16, 16);
    uint seven = two.x & 0x007f007f | (two.y & 0x007f007f) << 8;
    // high counts from -128, low from -64; low has its sign spread.
    seven ^= 0x40404040;
    return uvec2((two.x >> 7 & 0x00ff00ff | two.y << 1 & 0xff00ff00) ^ 0x80808080, seven | (seven & 0x40404040) << 1);
}

// `sum` and the products of sixteen packed int8 with sixteen others.
int dots(uvec4 a, uvec4 b, int sum) {
    [[unroll]] for (uint i = 0; i < 4; i++) {
        sum += dotPacked4x8EXT(int(a[i]), int(b[i]));
    }
    return sum;
}
