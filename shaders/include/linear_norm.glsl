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
                    y[row * n_out + j] = S((items[i] - mean) * scale * gain[i] + shift[i]);
                }
            }
        }
    }
    if (gl_LocalInvocationID.x == 0) {
        counters[block] = 0;
    }
}
