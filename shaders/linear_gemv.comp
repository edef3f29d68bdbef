// x w^T for so few rows that reading w is all the time there is. A workgroup makes COLUMNS columns of ROWS rows and
// splits k over all of its invocations: each step covers LANES * PER elements of k, and each invocation reads PER
// neighbours, 16 bytes, of every column's line of w. These COLUMNS loads do not depend on each other and are all on
// their way before anything else is done, which is what keeps the memory busy.
//
// x goes through shared memory: it is read, squared for RMSNorm, multiplied by the gain and widened to f32 once a
// workgroup, and not once a column. Sums meet by subgroupAdd, then across the subgroups in shared memory.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;
#define W_BY_16_BYTES
#include "include/linear_io.glsl"

#include "include/gemv_operands.glsl"

const uint LANES = LOCAL_X;
const uint STEP = LANES * VECTORS;
const uint OUTPUTS = ROWS * COLUMNS;

shared vec4 staged[ROWS * STEP];
shared float sums[SUBGROUPS * OUTPUTS];
#if HAS_GAIN
shared float square_sums[SUBGROUPS * ROWS];
#endif

void main() {
    uint t = gl_LocalInvocationID.x;
    uint first_row = gl_WorkGroupID.x * ROWS;
    uint first_column = gl_WorkGroupID.y * COLUMNS;
    uint loads = k / PER;

    float acc[OUTPUTS];
    [[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
        acc[o] = 0.0;
    }
#if HAS_GAIN
    float squares[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        squares[r] = 0.0;
    }
#endif
    for (uint first_load = 0; first_load < loads; first_load += LANES) {
        // Past the end the last one is read again; x is zero there.
        uint load = min(first_load + t, loads - 1);
        uint at[COLUMNS];
        uvec4 q[COLUMNS];
        [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
            at[c] = w_vector(w_row(min(first_column + c, n - 1)), load);
            q[c] = w[at[c]];
        }
        GROUP scale[COLUMNS];
        [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
            scale[c] = group_at(w_group(at[c]));
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            [[unroll]] for (uint i = 0; i < VECTORS; i++) {
                uint vector = i * LANES + t;
                vec4 v = load_x(first_row + r, first_load * VECTORS + vector);
#if HAS_GAIN
                squares[r] += dot(v, v);
                v *= gain_inside(min(first_load * VECTORS + vector, k / 4 - 1));
#endif
                staged[r * STEP + place(vector)] = v;
            }
        }
        barrier();
#if ROWS == 1
        float part[COLUMNS];
        [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
            part[c] = 0.0;
        }
        float total = 0.0;
        [[unroll]] for (uint i = 0; i < VECTORS; i++) {
            vec4 v = staged[place(t * VECTORS + i)];
            total += v.x + v.y + v.z + v.w;
            [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
                part[c] += dot(quants(q[c], i), v);
            }
        }
        [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
#if W_INT4
            acc[c] += scale[c].x * part[c] + scale[c].y * total;
#elif W_INT8
            acc[c] += scale[c] * part[c];
#else
            acc[c] += part[c];
#endif
        }
#else
        [[unroll]] for (uint i = 0; i < VECTORS; i++) {
            vec4 values[COLUMNS];
            [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
                values[c] = weights(q[c], i, scale[c]);
            }
            [[unroll]] for (uint r = 0; r < ROWS; r++) {
                vec4 v = staged[r * STEP + place(t * VECTORS + i)];
                [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
                    acc[r * COLUMNS + c] += dot(values[c], v);
                }
            }
        }
#endif
        barrier();
    }

    [[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
        float sum = subgroupAdd(acc[o]);
        if (gl_SubgroupInvocationID == 0) {
            sums[gl_SubgroupID * OUTPUTS + o] = sum;
        }
    }
#if HAS_GAIN
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        float sum = subgroupAdd(squares[r]);
        if (gl_SubgroupInvocationID == 0) {
            square_sums[gl_SubgroupID * ROWS + r] = sum;
        }
    }
#endif
    barrier();
    for (uint o = 4 * t; o < OUTPUTS; o += 4 * LANES) {
        vec4 total = vec4(0.0);
        for (uint subgroup = 0; subgroup < gl_NumSubgroups; subgroup++) {
            [[unroll]] for (uint i = 0; i < 4; i++) {
                total[i] += sums[subgroup * OUTPUTS + o + i];
            }
        }
#if HAS_GAIN
        float square_sum = 0.0;
        for (uint subgroup = 0; subgroup < gl_NumSubgroups; subgroup++) {
            square_sum += square_sums[subgroup * ROWS + o / COLUMNS];
        }
        total *= rms_scale(square_sum);
#endif
        finish(first_row + o / COLUMNS, first_column + o % COLUMNS, total);
    }
}
