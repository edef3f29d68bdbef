// What every variant of `linear` shares: bindings, the vector view of the operands, and the epilogue.
//
//     y = LayerNorm(activation(RoPE(x w^T + bias)) + residual)
//
// The epilogue works on four neighbouring columns of one row, so that RoPE pairs and (gate, up) pairs stay together.
#include "math.glsl"

#define GATED (ACT == ACT_SWIGLU || ACT == ACT_GEGLU || ACT == ACT_GEGLU_TANH)
#if GATED
#define GATES 2
#else
#define GATES 1
#endif

#if VEC == 8
// Eight 16-bit elements in one 16-byte load.
layout(binding = BIND_X) readonly buffer In0 { uvec4 x[]; };
layout(binding = BIND_W) readonly buffer In1 { uvec4 w[]; };
#elif VEC == 4
layout(binding = BIND_X) readonly buffer In0 { A4 x[]; };
layout(binding = BIND_W) readonly buffer In1 { W4 w[]; };
#else
layout(binding = BIND_X) readonly buffer In0 { A x[]; };
layout(binding = BIND_W) readonly buffer In1 { W w[]; };
#endif
#if HAS_BIAS
layout(binding = BIND_BIAS) readonly buffer In2 { float bias[]; };
#endif
#if HAS_POSITIONS
layout(binding = BIND_POSITIONS) readonly buffer In3 { uint positions[]; };
#endif
#if HAS_RESIDUAL
layout(binding = BIND_RESIDUAL) readonly buffer In4 { A residual[]; };
#endif
#if HAS_NORM_WEIGHT
layout(binding = BIND_NORM_WEIGHT) readonly buffer In5 { float norm_weight[]; };
#if HAS_NORM_BIAS
layout(binding = BIND_NORM_BIAS) readonly buffer In6 { float norm_bias[]; };
#endif
// Rows are finished by another workgroup than the ones that wrote them: coherent makes those writes meet in memory.
#if HAS_SUM
layout(binding = BIND_SUM) coherent buffer Out0 { A before_norm[]; };
layout(binding = BIND_Y) writeonly buffer Out1 { A y[]; };
#else
layout(binding = BIND_Y) coherent buffer Out1 { A y[]; };
#define before_norm y
#endif
layout(binding = BIND_COUNTERS) coherent buffer Scratch { uint counters[]; };
#else
layout(binding = BIND_Y) writeonly buffer Out1 { A y[]; };
#define before_norm y
#endif
layout(push_constant) uniform Push { uint m, n, k; float eps, rope_theta; };

#if VEC != 8
// x[row, 4 * k4 .. 4 * k4 + 4] with zeros past the edges.
vec4 load_x(uint row, uint k4) {
    if (row >= m) {
        return vec4(0.0);
    }
#if VEC == 4
    return 4 * k4 < k ? vec4(x[row * (k / 4) + k4]) : vec4(0.0);
#else
    vec4 v = vec4(0.0);
    for (uint i = 0; i < 4; i++) {
        if (4 * k4 + i < k) {
            v[i] = float(x[row * k + 4 * k4 + i]);
        }
    }
    return v;
#endif
}

// w[column, 4 * k4 .. 4 * k4 + 4] with zeros past the edges.
vec4 load_w(uint column, uint k4) {
    if (column >= n) {
        return vec4(0.0);
    }
#if VEC == 4
    return 4 * k4 < k ? vec4(w[column * (k / 4) + k4]) : vec4(0.0);
#else
    vec4 v = vec4(0.0);
    for (uint i = 0; i < 4; i++) {
        if (4 * k4 + i < k) {
            v[i] = float(w[column * k + 4 * k4 + i]);
        }
    }
    return v;
#endif
}

#endif

float activate(float v) {
#if ACT == ACT_RELU
    return max(v, 0.0);
#elif ACT == ACT_GELU || ACT == ACT_GEGLU
    return gelu(v);
#elif ACT == ACT_GELU_TANH || ACT == ACT_GEGLU_TANH
    return gelu_tanh(v);
#elif ACT == ACT_SILU || ACT == ACT_SWIGLU
    return silu(v);
#else
    return v;
#endif
}

// Writes what follows from the products of `row` with columns `column .. column + 4`; `column` is a multiple of 4.
void finish(uint row, uint column, vec4 acc) {
    if (row >= m) {
        return;
    }
#if HAS_BIAS
    [[unroll]] for (uint i = 0; i < 4; i++) {
        acc[i] += column + i < n ? bias[column + i] : 0.0;
    }
#endif
#if HAS_POSITIONS
    float position = float(positions[row]);
    [[unroll]] for (uint i = 0; i < 4; i += 2) {
        if (column + i < OPT_ROPE_HEADS * OPT_ROPE_HEAD_DIM) {
            uint in_head = (column + i) % OPT_ROPE_HEAD_DIM;
            acc.xy = i == 0 ? rotate(acc.xy, in_head, OPT_ROPE_HEAD_DIM, position, rope_theta) : acc.xy;
            acc.zw = i == 2 ? rotate(acc.zw, in_head, OPT_ROPE_HEAD_DIM, position, rope_theta) : acc.zw;
        }
    }
#endif
    uint n_out = n / GATES;
    [[unroll]] for (uint i = 0; i < 4; i += GATES) {
        uint out_column = (column + i) / GATES;
        if (out_column < n_out) {
            uint at = row * n_out + out_column;
#if GATED
            float value = activate(acc[i]) * acc[i + 1];
#else
            float value = activate(acc[i]);
#endif
#if HAS_RESIDUAL
            value += float(residual[at]);
#endif
            before_norm[at] = A(value);
        }
    }
}

#if HAS_NORM_WEIGHT
// LayerNorm needs whole rows, which several workgroups wrote. Each of them counts itself in at its block of rows; the
// last one to arrive normalises the block and sets the counter back for the next run. Nobody waits for anybody, so
// no forward progress between workgroups is assumed.
shared uint arrived;

#ifdef ROWS_BY_SUBGROUP
// A row belongs to a subgroup of 32: its sums need neither shared memory nor barriers, and rows overlap.
const uint TEAM = 32;
#define TEAMS gl_NumSubgroups
#define MY_TEAM gl_SubgroupID
#define MY_LANE gl_SubgroupInvocationID
#define team_sum subgroupAdd
#else
shared float team_sums[LOCAL_X];

// Sum over the TEAM invocations that share a row. All of the workgroup must call it.
const uint TEAM = LOCAL_X < 32 ? LOCAL_X : 32;
const uint TEAMS = LOCAL_X / TEAM;
#define MY_TEAM (gl_LocalInvocationID.x / TEAM)
#define MY_LANE (gl_LocalInvocationID.x % TEAM)
float team_sum(float value) {
    uint t = gl_LocalInvocationID.x;
    uint lane = t % TEAM;
    barrier();
    team_sums[t] = value;
    barrier();
    for (uint live = TEAM; live > 1;) {
        uint half_up = (live + 1) / 2;
        if (lane + half_up < live && t + half_up < LOCAL_X) {
            team_sums[t] += team_sums[t + half_up];
        }
        barrier();
        live = half_up;
    }
    return team_sums[t - lane];
}
#endif
const uint ROW_ITEMS = (N_OUT + TEAM - 1) / TEAM;

// Normalises rows `first .. first + count` if this workgroup is the last of `arrivals` to finish writing them.
void finish_rows(uint block, uint first, uint count, uint arrivals) {
    memoryBarrierBuffer();
    barrier();
    if (gl_LocalInvocationID.x == 0) {
        arrived = atomicAdd(counters[block], 1);
    }
    barrier();
    if (arrived != arrivals - 1) {
        return;
    }
    memoryBarrierBuffer();
    const uint n_out = N_OUT;
    uint lane = MY_LANE;
    uint team = MY_TEAM;
    // The same columns for every row of this invocation.
    float gain[ROW_ITEMS];
    float shift[ROW_ITEMS];
    [[unroll]] for (uint i = 0; i < ROW_ITEMS; i++) {
        uint j = min(i * TEAM + lane, n_out - 1);
        gain[i] = norm_weight[j];
#if HAS_NORM_BIAS
        shift[i] = norm_bias[j];
#else
        shift[i] = 0.0;
#endif
    }
    for (uint r0 = 0; r0 < count; r0 += TEAMS) {
        uint r = r0 + team;
        uint row = min(first + r, m - 1);
        // The row goes into registers with all of its loads in flight at once.
        float items[ROW_ITEMS];
        float total = 0.0;
        [[unroll]] for (uint i = 0; i < ROW_ITEMS; i++) {
            uint j = i * TEAM + lane;
            items[i] = j < n_out ? float(before_norm[row * n_out + j]) : 0.0;
        }
        [[unroll]] for (uint i = 0; i < ROW_ITEMS; i++) {
            total += items[i];
        }
        float mean = team_sum(total) / float(n_out);
        float squares = 0.0;
        [[unroll]] for (uint i = 0; i < ROW_ITEMS; i++) {
            float d = i * TEAM + lane < n_out ? items[i] - mean : 0.0;
            squares += d * d;
        }
        float scale = inversesqrt(team_sum(squares) / float(n_out) + eps);
        if (team < TEAMS && r < count && first + r < m) {
            [[unroll]] for (uint i = 0; i < ROW_ITEMS; i++) {
                uint j = i * TEAM + lane;
                if (j < n_out) {
                    y[row * n_out + j] = A((items[i] - mean) * scale * gain[i] + shift[i]);
                }
            }
        }
    }
    if (gl_LocalInvocationID.x == 0) {
        counters[block] = 0;
    }
}
#endif
