// How w and x become fragments of registers (fragments.glsl).
//
// A product adds up over k, and in which order does not matter: both sides only have to agree which elements a pair
// holds. So an invocation takes 16 bytes of w as they stand in memory, neighbours of k, for its pairs of several fragments,
// and x is laid out to meet them. Columns of w are dealt out so that an invocation ends up with four neighbours.

#include "fragments.glsl"

// The fragments that 16 bytes of w make.
const uint LOAD_FRAGMENTS = PER / 4;

// Vectors from one fragment of x to the next in shared memory: eight invocations that write neighbours of k of one row
// meet different banks.
#if W_INT4
const uint FRAGMENT = 33;
#else
const uint FRAGMENT = 34;
#endif

// Eight neighbours of k of x, the `k8`th of a window, make pairs of two fragments: the first of these, and c.
uvec2 x_place(uint k8) {
#if W_INT8
    return uvec2(k8 / 8 * 4 + k8 % 2 * 2, k8 % 8 / 2);
#elif W_INT4
    return uvec2(k8 / 16 * 8 + k8 % 4 * 2, k8 % 16 / 4);
#else
    return uvec2(k8 / 4 * 2, k8 % 4);
#endif
}

// The pairs of eight neighbours of x in the first (0) or second (1) of their fragments. They meet what `w_pairs` takes out
// of a word of w by a mask: elements 0 and 2, then 1 and 3 of four (int8), or 0 and 4, 1 and 5, 2 and 6, 3 and 7 of eight
// (int4).
uvec2 x_pairs(uvec4 eight, uint second) {
#if W_INT8
    uvec2 two = second == 0 ? eight.xy : eight.zw;
    return uvec2(low_halves(two.x, two.y), high_halves(two.x, two.y));
#elif W_INT4
    uvec2 two = second == 0 ? eight.xz : eight.yw;
    return uvec2(low_halves(two.x, two.y), high_halves(two.x, two.y));
#else
    return second == 0 ? eight.xy : eight.zw;
#endif
}

// The bits of 1024 twice, whose last bits count ones, in a register: `n` has no last bit of 32, which a compiler cannot know.
// A constant would take an instruction of its own beside a mask.
uint bits_of_1024() {
    return 0x64006400 | n >> 31;
}

// The pairs of the fragment `f` of a load of w. Integers become f16 by the bits of 1024.
uvec2 w_pairs(uvec4 load, uint f, f16vec2 shared_by) {
#if W_INT8
    uint word = load[f];
    // Two's complement with the sign turned over counts from -128.
    uvec2 bits = uvec2(word, word >> 8) & 0x00ff00ff ^ (bits_of_1024() | 0x00800080);
    return uvec2(packFloat2x16((unpackFloat2x16(bits.x) - f16vec2(1152.0)) * shared_by),
                 packFloat2x16((unpackFloat2x16(bits.y) - f16vec2(1152.0)) * shared_by));
#elif W_INT4
    uint word = load[f / 2] >> 8 * (f % 2);
    uvec2 bits = uvec2(word, word >> 4) & 0x000f000f | bits_of_1024();
    return uvec2(packFloat2x16(fma(unpackFloat2x16(bits.x) - f16vec2(1024.0), shared_by.xx, shared_by.yy)),
                 packFloat2x16(fma(unpackFloat2x16(bits.y) - f16vec2(1024.0), shared_by.xx, shared_by.yy)));
#else
    return f == 0 ? load.xy : load.zw;
#endif
}

// What a group shares, by its place (`w_group`): the scale of int8 twice, or scale and minimum of int4.
f16vec2 load_shared(uint at) {
#if W_INT8
    return f16vec2(w_scale[at]);
#elif W_INT4
    return w_scale[at];
#else
    return f16vec2(0.0);
#endif
}
