// What `rope_append` and `append_attention` do to heads: norm weights and the angle of a pair. The includer has D, NONE, and
// `theta` and `rope_scale` among its push constants.
#include "math.glsl"
#include "turn.glsl"
#if HAS_Q_NORM
layout(binding = BIND_Q_NORM) RELAY_EARLY readonly buffer QueryNorm { float q_norm[]; };
#endif
#if HAS_K_NORM
layout(binding = BIND_K_NORM) RELAY_EARLY readonly buffer KeyNorm { float k_norm[]; };
#endif

// Cosine and sine for the adjacent pair that starts at `column` of a head.
vec2 turn_of(uint position, uint column) {
    return turn_of(position, column, D, theta, rope_scale);
}
