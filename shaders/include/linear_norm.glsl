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
// A row is read by whole vectors where its length allows, and several rows are on their way at once: the last workgroup
// works alone, so that it waits for memory and for nothing else.
#if N_OUT % OUTS == 0
#define ITEM OUT
#define ITEM_S OUT_S
#define ITEMS_OF(name) name##_vectors
const uint PER_ITEM = OUTS;
#else
#define ITEM float
#define ITEM_S S
#define ITEMS_OF(name) name
const uint PER_ITEM = 1;
#endif
const uint N_ITEMS = N_OUT / PER_ITEM;
const uint ROW_ITEMS = (N_ITEMS + TEAM - 1) / TEAM;
const uint ROWS_AT_ONCE = clamp(12 / ROW_ITEMS, 1, 4);

float total_of(float item) {
    return item;
}

float total_of(vec2 item) {
    return item.x + item.y;
}

float total_of(vec4 item) {
    return total_of(item.xy) + total_of(item.zw);
}

ITEM norm_shift(uint j) {
#if HAS_NORM_BIAS
    return ITEMS_OF(norm_bias)[j];
#else
    return ITEM(0.0);
#endif
}

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
    uint lane = MY_LANE;
    uint team = MY_TEAM;
    for (uint r0 = 0; r0 < count; r0 += TEAMS * ROWS_AT_ONCE) {
        ITEM items[ROWS_AT_ONCE][ROW_ITEMS];
        [[unroll]] for (uint a = 0; a < ROWS_AT_ONCE; a++) {
            uint row = min(first + r0 + a * TEAMS + team, m - 1);
            [[unroll]] for (uint i = 0; i < ROW_ITEMS; i++) {
                uint j = i * TEAM + lane;
                items[a][i] = j < N_ITEMS ? ITEM(ITEMS_OF(before_norm)[row * N_ITEMS + j]) : ITEM(0.0);
            }
        }
        [[unroll]] for (uint a = 0; a < ROWS_AT_ONCE; a++) {
            uint r = r0 + a * TEAMS + team;
            ITEM total = ITEM(0.0);
            [[unroll]] for (uint i = 0; i < ROW_ITEMS; i++) {
                total += items[a][i];
            }
            float mean = team_sum(total_of(total)) / float(N_OUT);
            ITEM squares = ITEM(0.0);
            [[unroll]] for (uint i = 0; i < ROW_ITEMS; i++) {
                ITEM d = i * TEAM + lane < N_ITEMS ? items[a][i] - mean : ITEM(0.0);
                squares += d * d;
            }
            float scale = inversesqrt(team_sum(total_of(squares)) / float(N_OUT) + eps);
            if (team < TEAMS && r < count && first + r < m) {
                [[unroll]] for (uint i = 0; i < ROW_ITEMS; i++) {
                    uint j = i * TEAM + lane;
                    if (j < N_ITEMS) {
                        ITEMS_OF(y)[(first + r) * N_ITEMS + j] =
                            ITEM_S((items[a][i] - mean) * scale * ITEMS_OF(norm_weight)[j] + norm_shift(j));
                    }
                }
            }
        }
    }
    if (gl_LocalInvocationID.x == 0) {
        counters[block] = 0;
    }
}
