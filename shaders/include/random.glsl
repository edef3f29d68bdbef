// Noise in (0, 1) that three keys decide: the first word of PCG3D (Jarzynski and Olano 2020, "Hash Functions for GPU
// Rendering") over 2^32, cut to the 24 leading bits that a float holds. The formulas' `random` has the same bits.
float random(uint a, uint b, uint c) {
    uvec3 v = uvec3(a, b, c) * 1664525u + 1013904223u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v ^= v >> 16u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    uint bits = max(v.x, 1u);
    uint tail = uint(max(findMSB(bits) - 23, 0));
    return float(bits >> tail << tail) * 2.3283064365386963e-10;
}

// Gumbel noise: the arg-max of log w + Gumbel is a draw with weights w (Gumbel 1954; Maddison, Tarlow and Minka 2014).
// Where the exponential variate -log(1 - r) is small the series keeps the bits that 1 - r would lose.
float gumbel(float r) {
    float wait = r < 0.001 ? r * (1.0 + r * (0.5 + r * 0.3333333333)) : -log(1.0 - r);
    return -log(wait);
}
