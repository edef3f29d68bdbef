// Arg-max over a row of logits by many workgroups; the last to arrive picks the token and moves the sequence on.
//
// Each workgroup scans TEAMS shares of the row, a team of invocations each, for the best score and the largest logit. Rows
// with top-k or top-p need more. With top-k the last workgroup collects the logits that can still count into a list in
// shared memory, sorts it and cuts it. With top-p alone these would be too many: a histogram says around where the cut is,
// and only what lies there goes to the list. Where that fails (a large top_k, many equal logits) the row is cut by
// bisection over the bits of the logits.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"
#include "include/random.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(constant_id = 1) const uint LIST = 64;
layout(constant_id = 2) const uint TEAMS = 1;
layout(local_size_x_id = 0) in;

layout(binding = BIND_LOGITS) readonly buffer In0 { float logits[]; };
layout(binding = BIND_POSITIONS) readonly buffer In1 { uint positions[]; };
layout(binding = BIND_SLOTS) readonly buffer In2 { uint slots[]; };
layout(binding = BIND_FLOW) readonly buffer In3 { uvec2 flow[]; };
layout(binding = BIND_SEEDS) readonly buffer In4 { uvec2 seeds[]; };
layout(binding = BIND_SAMPLING) readonly buffer In5 { vec4 sampling[]; };
layout(binding = BIND_STOPS) readonly buffer In6 { uint stops[]; };
// (last token, next position, done, step) of each slot.
layout(binding = BIND_PROGRESS) buffer State0 { uvec4 progress[]; };
layout(binding = BIND_RING) buffer State1 { uint ring[]; };
layout(binding = BIND_TOKENS) writeonly buffer Out0 { uint tokens[]; };
// Best score (of a row with cuts: the sum of weights), its index, largest logit, whether a logit is no number or
// +infinity. Scores and weights are relative to the share's own largest logit.
layout(binding = BIND_PARTIAL) coherent buffer Work0 { uvec4 partial[]; };
layout(binding = BIND_COUNTERS) coherent buffer Work1 { uint counters[]; };
layout(push_constant) uniform Push { uint vocab, groups; };

#include "include/arrive.glsl"

const uint NONE = 0xffffffffu;
const uint MOST_GROUPS = 128;
const uint INVALID = 0xfffffffeu;
#define LOWEST uintBitsToFloat(0xff800000u)

shared float best_values[WIDTH];
shared uint best_indices[WIDTH];
// The list: logits by their bits, and tokens. As a histogram: how deep in their bin tokens lie together, and how many.
shared uint list_bits[LIST];
shared uint list_index[LIST];
shared uint list_count;
// Shares that can hold tokens of the list.
shared uint shares[MOST_GROUPS];
shared uint share_count;
shared uint any_bad;
// What ends a sequence: in shared memory, so that the last workgroup has not to wait for it.
shared uint stop_tokens[8];
shared bool at_limit;
shared float shared_cut;
// The first and the last bin in which the nucleus may end.
shared uint shared_bins[2];

// Tokens of the submit so far that an invocation passes on.
const uint KEPT = (OPT_STEPS + WIDTH - 1) / WIDTH;
// Invocations that scan a share.
const uint TEAM = WIDTH / TEAMS;

#define t gl_LocalInvocationID.x
#define row gl_WorkGroupID.y

bool better(float a, uint a_index, float b, uint b_index) {
    return a > b || a == b && a_index < b_index;
}

// The best pair over each team of `size` neighbours of the workgroup.
void reduce_best(uint size, inout float value, inout uint index) {
    barrier();
    best_values[t] = value;
    best_indices[t] = index;
    barrier();
    for (uint live = size; live > 1;) {
        uint half_up = (live + 1) / 2;
        uint other = t + half_up;
        if (t % size + half_up < live && other < WIDTH && better(best_values[other], best_indices[other], best_values[t], best_indices[t])) {
            best_values[t] = best_values[other];
            best_indices[t] = best_indices[other];
        }
        barrier();
        live = half_up;
    }
    value = best_values[t - t % size];
    index = best_indices[t - t % size];
}

// Sum over each of them, in an order that is always the same.
float reduce_sum(uint size, float value) {
    barrier();
    best_values[t] = value;
    barrier();
    for (uint live = size; live > 1;) {
        uint half_up = (live + 1) / 2;
        if (t % size + half_up < live && t + half_up < WIDTH) {
            best_values[t] += best_values[t + half_up];
        }
        barrier();
        live = half_up;
    }
    return best_values[t - t % size];
}

// Bits that are ordered as the floats are; both zeros are one.
uint to_key(float value) {
    uint bits = value == 0.0 ? 0u : floatBitsToUint(value);
    return (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
}

float from_key(uint key) {
    return uintBitsToFloat((key & 0x80000000u) != 0u ? key & 0x7fffffffu : ~key);
}

// What all steps of one row see.
struct Row {
    float temperature;
    float top_k;
    float top_p;
    bool cuts_k;
    bool cuts_p;
    uvec2 seed;
    float peak;
};

float noise(Row r, uint index) {
    return gumbel(random(r.seed.x, r.seed.y, index));
}

// Walks this invocation's logits of `first .. last`, AHEAD loads at a time, where a team of `size` shares them: `body` sees
// `j` and `logit`.
const uint AHEAD = 8;
#define EACH(size, first, last, body) \
    for (uint j0 = (first) + t % (size); j0 < (last); j0 += AHEAD * (size)) { \
        float ahead[AHEAD]; \
        [[unroll]] for (uint u = 0; u < AHEAD; u++) { \
            ahead[u] = logits[row * vocab + min(j0 + u * (size), (last) - 1)]; \
        } \
        [[unroll]] for (uint u = 0; u < AHEAD; u++) { \
            uint j = j0 + u * (size); \
            float logit = ahead[u]; \
            if (j < (last)) body \
        } \
    }

// The best score over the indices `first .. last` of the row that a team scans.
void scan(Row r, uint first, uint last, inout float value, inout uint index) {
    EACH(TEAM, first, last, {
        float score = (logit - r.peak) / r.temperature + noise(r, j);
        if (better(score, j, value, index)) {
            value = score;
            index = j;
        }
    })
}

// A logit that no token of the kept ones is below, however the others lie.
float lower_bound(Row r) {
    if (r.cuts_k && r.top_k <= float(groups)) {
        // Of `groups` different tokens, the top_k-th largest.
        barrier();
        for (uint g = t; g < groups; g += WIDTH) {
            float mine = uintBitsToFloat(partial[row * groups + g].z);
            uint above = 0;
            uint here = 0;
            for (uint h = 0; h < groups; h++) {
                float other = uintBitsToFloat(partial[row * groups + h].z);
                above += uint(other > mine);
                here += uint(other == mine);
            }
            if (float(above) < r.top_k && float(above + here) >= r.top_k) {
                shared_cut = mine;
            }
        }
        barrier();
        return shared_cut;
    }
    if (r.cuts_k) {
        return LOWEST;
    }
    // Tokens below this have, all together, less than 1 - top_p of the probability of the first.
    return r.peak + r.temperature * log(0.5 * (1.0 - r.top_p) / float(vocab));
}

// Entries of the list that an invocation has.
const uint HELD = (LIST + WIDTH - 1) / WIDTH;

float list_value(uint i) {
    return uintBitsToFloat(list_bits[i]);
}

// Sorts and cuts a list of `count` tokens that holds all that can be kept; `mass` is the weight that top_p is a part of,
// unless top_k cuts it too, and `before` that of larger logits that are not in the list. Gives the best of what stays.
void pick_from_list(Row r, uint count, float before, float mass, inout float value, inout uint index) {
    // Sorted where it stands: shared memory decides how many workgroups run at once, also where there is nothing to sort.
    float values[HELD];
    uint indices[HELD];
    uint ranks[HELD];
    barrier();
    for (uint h = 0; h < HELD; h++) {
        uint i = h * WIDTH + t;
        ranks[h] = 0;
        if (i < count) {
            values[h] = list_value(i);
            indices[h] = list_index[i];
            for (uint q = 0; q < count; q++) {
                ranks[h] += uint(better(list_value(q), list_index[q], values[h], indices[h]));
            }
        }
    }
    barrier();
    for (uint h = 0; h < HELD; h++) {
        if (h * WIDTH + t < count) {
            list_bits[ranks[h]] = floatBitsToUint(values[h]);
            list_index[ranks[h]] = indices[h];
        }
    }
    barrier();
    if (r.cuts_k) {
        float last = list_value(min(uint(r.top_k), count) - 1);
        float part = 0.0;
        for (uint i = t; i < count; i += WIDTH) {
            part += list_value(i) >= last ? exp((list_value(i) - r.peak) / r.temperature) : 0.0;
        }
        mass = reduce_sum(WIDTH, part);
        while (count > 0 && list_value(count - 1) < last) {
            count--;
        }
    }
    for (uint i = t; i < count; i += WIDTH) {
        float mine = list_value(i);
        float larger = before;
        if (r.cuts_p) {
            for (uint q = 0; q < i && list_value(q) > mine; q++) {
                larger += exp((list_value(q) - r.peak) / r.temperature);
            }
        }
        float score = (mine - r.peak) / r.temperature + noise(r, list_index[i]);
        if ((!r.cuts_p || larger < r.top_p * mass) && better(score, list_index[i], value, index)) {
            value = score;
            index = list_index[i];
        }
    }
    reduce_best(WIDTH, value, index);
}

// The lowest cut of the keys `low .. high` above which less than `wanted` lies; what lies above `high` is less. Weights
// are 1, or with `weigh` those of the softmax; logits below `least` have none. Each walk of the row tries CUTS cuts.
const uint CUTS = 7;
float lowest_cut(Row r, uint low, uint high, float least, bool weigh, float wanted) {
    while (low < high) {
        uint step = (high - low) / (CUTS + 1) + 1;
        float above[CUTS];
        [[unroll]] for (uint c = 0; c < CUTS; c++) {
            above[c] = 0.0;
        }
        EACH(WIDTH, 0, vocab, {
            uint key = to_key(logit);
            float weight = weigh ? exp((logit - r.peak) / r.temperature) : 1.0;
            weight = logit >= least ? weight : 0.0;
            // Compared by their distances from `low`, which do not overflow.
            uint distance = key > low ? key - low : 0;
            [[unroll]] for (uint c = 0; c < CUTS; c++) {
                above[c] += distance > min(c * step, high - low) ? weight : 0.0;
            }
        })
        uint next_low = low;
        uint next_high = high;
        [[unroll]] for (uint c = CUTS; c > 0; c--) {
            uint cut = low + min((c - 1) * step, high - low);
            if (reduce_sum(WIDTH, above[c - 1]) < wanted) {
                next_high = min(next_high, cut);
            } else {
                next_low = max(next_low, cut + 1);
            }
        }
        low = next_low;
        high = next_high;
    }
    return from_key(low);
}

// The same without a list: the row is searched for the cuts.
void pick_from_row(Row r, float mass, inout float value, inout uint index) {
    float keep = LOWEST;
    uint top = to_key(r.peak);
    if (r.cuts_k) {
        keep = lowest_cut(r, to_key(LOWEST), top, LOWEST, false, r.top_k);
        float part = 0.0;
        EACH(WIDTH, 0, vocab, { part += logit >= keep ? exp((logit - r.peak) / r.temperature) : 0.0; })
        mass = reduce_sum(WIDTH, part);
    }
    if (r.cuts_p) {
        keep = lowest_cut(r, to_key(keep), top, keep, true, r.top_p * mass);
    }
    EACH(WIDTH, 0, vocab, {
        float score = logit >= keep ? (logit - r.peak) / r.temperature + noise(r, j) : LOWEST;
        if (better(score, j, value, index)) {
            value = score;
            index = j;
        }
    })
    reduce_best(WIDTH, value, index);
}

// Steps that the width of a bin has.
const float DEPTHS = 256.0;
// Histograms of a row, each but the first of a part of the one before.
const uint MOST_HISTOGRAMS = 4;

// Fills the list with the tokens of a row among which the nucleus ends that top_p alone cuts, and gives the weight `before`
// them and the best of those that have it. A token's place is how far it is below the peak; none that stays is `reach` or
// more below it. How many tokens a bin of places has, and how deep they lie in it, tells nearly what they weigh together,
// and so among which bins the nucleus ends. False where the weights, added up, do not bear that out.
bool find_end(Row r, float mass, float reach, out float before, inout float value, inout uint index) {
    float wanted = r.top_p * mass;
    float from = 0.0;
    float to = reach;
    uint inside = vocab;
    // What sorting takes grows with the square of their number.
    for (uint turn = 0; turn < MOST_HISTOGRAMS && inside > LIST / 4; turn++) {
        float step = (to - from) / float(LIST);
        barrier();
        for (uint i = t; i < LIST; i += WIDTH) {
            list_bits[i] = 0;
            list_index[i] = 0;
        }
        if (t < 2) {
            shared_bins[t] = LIST - 1;
        }
        barrier();
        before = 0.0;
        EACH(WIDTH, 0, vocab, {
            float place = r.peak - logit;
            if (place < from) {
                before += exp(-place / r.temperature);
            } else if (place < to) {
                float depth = (place - from) / step;
                uint bin = min(uint(depth), LIST - 1);
                atomicAdd(list_index[bin], 1);
                atomicAdd(list_bits[bin], uint(clamp(depth - float(bin), 0.0, 1.0) * DEPTHS));
            }
        })
        before = reduce_sum(WIDTH, before);
        // What the bins of this invocation weigh: tokens at their mean depth, and as much more as if they were spread evenly.
        float width = step / r.temperature;
        float spread = width * width / 24.0;
        float weights[HELD];
        float own = 0.0;
        for (uint h = 0; h < HELD; h++) {
            uint i = t * HELD + h;
            float tokens = i < LIST ? float(list_index[i]) : 0.0;
            weights[h] = 0.0;
            if (tokens > 0.0) {
                float depth = (float(list_bits[i]) / tokens + 0.5) / DEPTHS;
                float place = from + (float(i) + depth) * step;
                weights[h] = exp(-place / r.temperature) * (tokens + spread * (tokens - 1.0));
            }
            own += weights[h];
        }
        barrier();
        best_values[t] = own;
        barrier();
        float weight = before;
        float all = 0.0;
        for (uint other = 0; other < WIDTH; other++) {
            weight += other < t ? best_values[other] : 0.0;
            all += best_values[other];
        }
        // How far a depth may be from its step, and a bin from even; and sums are rounded.
        float doubt = all * (0.5 * width / DEPTHS + spread) + 2e-6 * wanted;
        for (uint h = 0; h < HELD; h++) {
            weight += weights[h];
            if (weight >= wanted - doubt) {
                atomicMin(shared_bins[0], t * HELD + h);
            }
            if (weight >= wanted + doubt) {
                atomicMin(shared_bins[1], t * HELD + h);
            }
        }
        barrier();
        uint first = shared_bins[0];
        uint last = shared_bins[1];
        inside = 0;
        for (uint i = first; i <= last; i++) {
            inside += list_index[i];
        }
        to = last == LIST - 1 ? to : from + float(last + 1) * step;
        from += float(first) * step;
    }
    barrier();
    if (t == 0) {
        list_count = 0;
    }
    barrier();
    before = 0.0;
    float listed = 0.0;
    float best = LOWEST;
    uint at = NONE;
    EACH(WIDTH, 0, vocab, {
        float place = r.peak - logit;
        float weight = place < to ? exp(-place / r.temperature) : 0.0;
        if (place < from) {
            before += weight;
            float score = noise(r, j) - place / r.temperature;
            if (better(score, j, best, at)) {
                best = score;
                at = j;
            }
        } else if (place < to) {
            listed += weight;
            uint entry = atomicAdd(list_count, 1);
            if (entry < LIST) {
                list_bits[entry] = floatBitsToUint(logit);
                list_index[entry] = j;
            }
        }
    })
    before = reduce_sum(WIDTH, before);
    listed = reduce_sum(WIDTH, listed);
    if (list_count > LIST || before >= wanted || before + listed < wanted) {
        return false;
    }
    value = best;
    index = at;
    return true;
}

// The best token of a row that top_k or top_p cuts.
uint pick_cut(Row r, uint share) {
    float value = LOWEST;
    uint index = NONE;
    float floor_value = lower_bound(r);
    if (t == 0) {
        list_count = 0;
        share_count = 0;
    }
    barrier();
    float part = 0.0;
    for (uint g = t; g < groups; g += WIDTH) {
        uvec4 other = partial[row * groups + g];
        float peak = uintBitsToFloat(other.z);
        part += peak == LOWEST ? 0.0 : uintBitsToFloat(other.x) * exp((peak - r.peak) / r.temperature);
        if (peak >= floor_value) {
            shares[atomicAdd(share_count, 1)] = g;
        }
    }
    float mass = reduce_sum(WIDTH, part);
    float before = 0.0;
    bool listed;
    if (r.cuts_k) {
        // Only of shares whose largest logit counts.
        uint most = share_count * share;
        for (uint e0 = t; e0 < most; e0 += AHEAD * WIDTH) {
            float ahead[AHEAD];
            uint at[AHEAD];
            [[unroll]] for (uint u = 0; u < AHEAD; u++) {
                uint e = min(e0 + u * WIDTH, most - 1);
                at[u] = shares[e / share] * share + e % share;
                ahead[u] = logits[row * vocab + min(at[u], vocab - 1)];
            }
            [[unroll]] for (uint u = 0; u < AHEAD; u++) {
                if (e0 + u * WIDTH < most && at[u] < vocab && ahead[u] >= floor_value) {
                    uint to = atomicAdd(list_count, 1);
                    if (to < LIST) {
                        list_bits[to] = floatBitsToUint(ahead[u]);
                        list_index[to] = at[u];
                    }
                }
            }
        }
        barrier();
        listed = list_count <= LIST;
    } else {
        listed = find_end(r, mass, r.peak - floor_value, before, value, index);
    }
    if (listed) {
        pick_from_list(r, list_count, before, mass, value, index);
    } else {
        pick_from_row(r, mass, value, index);
    }
    return index;
}

// Moves the sequence on by `token`; `before` is how far it was, `kept` what the ring held for this invocation's tokens.
void advance(uint slot, uvec4 before, uint kept[KEPT], uint token, bool dead, bool bad) {
    uint step = before.w;
    [[unroll]] for (uint i = 0; i < KEPT; i++) {
        uint j = i * WIDTH + t;
        if (j < OPT_STEPS) {
            tokens[row * OPT_STEPS + j] = j < step ? kept[i] : j == step ? token : NONE;
        }
    }
    if (t == 0) {
        bool done = dead || bad || at_limit;
        for (uint i = 0; i < 8; i++) {
            done = done || stop_tokens[i] == token;
        }
        progress[slot] = uvec4(token, dead ? before.y : positions[row] + 1, uint(done), (step + 1) % OPT_STEPS);
        ring[slot * 64 + step] = token;
    }
}

void main() {
    bool dead = positions[row] == NONE;
    Row r;
    r.temperature = sampling[row].x;
    r.top_k = floor(sampling[row].y);
    r.top_p = sampling[row].z;
    r.cuts_k = r.temperature > 0.0 && r.top_k > 0.0 && r.top_k < float(vocab);
    r.cuts_p = r.temperature > 0.0 && r.top_p > 0.0 && r.top_p < 1.0;
    r.seed = uvec2(seeds[row].x, seeds[row].y ^ positions[row]);

    uint share = (vocab + groups - 1) / groups;
    uint slot = slots[row];
    uvec4 before = progress[slot];
    uint kept[KEPT];
    [[unroll]] for (uint i = 0; i < KEPT; i++) {
        kept[i] = ring[slot * 64 + min(i * WIDTH + t, 63)];
    }
    if (t < 8) {
        stop_tokens[t] = stops[t];
    }
    if (t == 0) {
        any_bad = 0;
        at_limit = positions[row] + 1 >= flow[row].y;
    }
    barrier();
    uint group = gl_WorkGroupID.x * TEAMS + t / TEAM;
    uint first = min(group * share, vocab);
    uint last = dead ? first : min(first + share, vocab);
    float peak = LOWEST;
    uint at = NONE;
    EACH(TEAM, first, last, {
        // By bits, as compilers may assume that there are no NaNs.
        uint bits = floatBitsToUint(logit);
        if ((bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u) {
            any_bad = 1;
        }
        if (better(logit, j, peak, at)) {
            peak = logit;
            at = j;
        }
    })
    reduce_best(TEAM, peak, at);
    float value = peak;
    uint index = at;
    r.peak = peak;
    if (r.temperature > 0.0 && !r.cuts_k && !r.cuts_p) {
        value = LOWEST;
        index = NONE;
        scan(r, first, last, value, index);
        reduce_best(TEAM, value, index);
    } else if (r.cuts_p && !r.cuts_k) {
        float part = 0.0;
        EACH(TEAM, first, last, { part += exp((logit - peak) / r.temperature); })
        value = reduce_sum(TEAM, part);
    }
    if (t % TEAM == 0 && t / TEAM < TEAMS && group < groups) {
        partial[row * groups + group] = uvec4(floatBitsToUint(value), index, floatBitsToUint(peak), any_bad);
    }
    if (!last_to_arrive(row, gl_NumWorkGroups.x)) {
        return;
    }

    r.peak = LOWEST;
    at = NONE;
    for (uint g = t; g < groups; g += WIDTH) {
        uvec4 part = partial[row * groups + g];
        if (better(uintBitsToFloat(part.z), part.y, r.peak, at)) {
            r.peak = uintBitsToFloat(part.z);
            at = part.y;
        }
        if (part.w != 0) {
            any_bad = 1;
        }
    }
    reduce_best(WIDTH, r.peak, at);
    bool bad = any_bad != 0 || r.peak == LOWEST;
    uint token = dead ? NONE : INVALID;
    if (!dead && !bad) {
        if (r.cuts_k || r.cuts_p) {
            token = pick_cut(r, share);
        } else if (r.temperature > 0.0) {
            // Scores of the shares are relative to their own peaks.
            value = LOWEST;
            token = NONE;
            for (uint g = t; g < groups; g += WIDTH) {
                uvec4 part = partial[row * groups + g];
                float score = uintBitsToFloat(part.x) + (uintBitsToFloat(part.z) - r.peak) / r.temperature;
                if (better(score, part.y, value, token)) {
                    value = score;
                    token = part.y;
                }
            }
            reduce_best(WIDTH, value, token);
        } else {
            token = at;
        }
    }
    advance(slot, before, kept, token, dead, bad && !dead);
}
