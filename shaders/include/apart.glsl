// An element of x as two int8, 128 high + low, in units of a scale: 15 bits for the largest of those that share it.
//
// The includer has `shared uvec4 tile[]` for x as w meets it: first all high parts, then, from LOW on, all low ones. For
// int8 16 elements are a vector. For int4, whose words hold even elements in low and odd ones in high nibbles, a vector has
// the even elements of a group of 32, and GROUPS vectors further its odd ones.
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

// Puts eighth `eighth` of a group, whose levels are `a` and `b`, into its place.
void put_eighth(uint group, uint eighth, uvec4 a, uvec4 b) {
#if W_INT4
    uvec2 even = parts_of(uvec4(a.xz, b.xz));
    uvec2 odd = parts_of(uvec4(a.yw, b.yw));
    tile[group][eighth] = even.x;
    tile[GROUPS + group][eighth] = odd.x;
    tile[LOW + group][eighth] = even.y;
    tile[LOW + GROUPS + group][eighth] = odd.y;
#else
    uvec2 first_four = parts_of(a);
    uvec2 last_four = parts_of(b);
    uint vector = 2 * group + eighth / 2;
    if (eighth % 2 == 0) {
        tile[vector].xy = uvec2(first_four.x, last_four.x);
        tile[LOW + vector].xy = uvec2(first_four.y, last_four.y);
    } else {
        tile[vector].zw = uvec2(first_four.x, last_four.x);
        tile[LOW + vector].zw = uvec2(first_four.y, last_four.y);
    }
#endif
}

// The sum of an eighth, in levels.
int sum_of(uvec4 a, uvec4 b) {
    uvec4 both = a + b;
    return int(both.x + both.y + both.z + both.w - 8 * (floatBitsToUint(SHIFT) + BIAS));
}

// `sum` and the products of sixteen packed int8 with sixteen others.
int dots(uvec4 a, uvec4 b, int sum) {
    [[unroll]] for (uint i = 0; i < 4; i++) {
        sum += dotPacked4x8EXT(int(a[i]), int(b[i]));
    }
    return sum;
}

// The products of 16 bytes of w with the vectors of x that meet them.
#if W_INT4
#define X_PART uvec4[2]
#define X_PART_AT(at) X_PART(tile[at], tile[GROUPS + (at)])
int products(uvec4 q, X_PART highs, X_PART lows) {
    uvec4 even = q & 0x0f0f0f0f;
    uvec4 odd = q >> 4 & 0x0f0f0f0f;
    int sum = dots(odd, highs[1], dots(even, highs[0], 0));
    return dots(odd, lows[1], dots(even, lows[0], sum << 7));
}
#else
#define X_PART uvec4
#define X_PART_AT(at) tile[at]
int products(uvec4 q, X_PART highs, X_PART lows) {
    return dots(q, lows, dots(q, highs, 0) << 7);
}
#endif
