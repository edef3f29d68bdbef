// Flash-Decoding's last step: the outputs of the parts that workgroups made of a row's cached length become the row's.
// The includer has GROUP, and `void put(uint at, vec4 v)` that takes four neighbours of y.

// One more for each row, split and head: outputs relative to the part's maximum, and (maximum, sum).
layout(binding = BIND_PARTS) coherent buffer Work0 { vec4 parts[]; };
layout(binding = BIND_SUMS) coherent buffer Work1 { vec2 sums[]; };
layout(binding = BIND_COUNTERS) coherent buffer Work2 { uint counters[]; };
#include "arrive.glsl"

const uint MOST_SPLITS = 32;
const float LOWEST = -1.0e30;

shared vec2 part_sums[MOST_SPLITS * GROUP];

// Where the outputs and sums of a part of a row's key head begin, counted in heads.
uint part_of(uint row, uint kv_head, uint split) {
    return (row * splits + split) * OPT_HEADS + kv_head * GROUP;
}

// The last of `live` workgroups to arrive puts the row's outputs for this key head together. All of a workgroup's
// invocations call it, after they have written their part.
void join(uint row, uint kv_head, uint live) {
    if (!last_to_arrive(row * OPT_KV_HEADS + kv_head, live)) {
        return;
    }
    uint t = gl_LocalInvocationID.x;
    for (uint e = t; e < GROUP * live; e += LOCAL_X) {
        part_sums[e] = sums[part_of(row, kv_head, e / GROUP) + e % GROUP];
    }
    barrier();
    // More at a time make the program longer than they make it faster.
    const uint AHEAD = 4;
    uint first = part_of(row, kv_head, 0) * (D / 4);
    for (uint e = t; e < GROUP * D / 4; e += LOCAL_X) {
        uint h = e / (D / 4);
        float highest = LOWEST;
        for (uint s = 0; s < live; s++) {
            highest = max(highest, part_sums[s * GROUP + h].x);
        }
        vec4 value = vec4(0.0);
        float sum = 0.0;
        for (uint s0 = 0; s0 < live; s0 += AHEAD) {
            vec4 theirs[AHEAD];
            [[unroll]] for (uint s = 0; s < AHEAD; s++) {
                theirs[s] = parts[first + min(s0 + s, live - 1) * OPT_HEADS * (D / 4) + e];
            }
            [[unroll]] for (uint s = 0; s < AHEAD; s++) {
                if (s0 + s < live) {
                    vec2 of_part = part_sums[(s0 + s) * GROUP + h];
                    float weight = exp2(of_part.x - highest);
                    sum += weight * of_part.y;
                    value += weight * theirs[s];
                }
            }
        }
        put((row * OPT_HEADS + kv_head * GROUP) * D + 4 * e, value / sum);
    }
}
