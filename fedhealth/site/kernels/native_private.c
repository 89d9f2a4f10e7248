/* Private steps of small fully connected networks: each hospital's clipped sum, and the noise on it.
 *
 * What is worked out is what `kernels.exact` and `privacy.noise` work out, which are its oracles. Patients stand side by
 * side, each in a lane of its own, and every lane has the same operations in the same order, so what comes out for a
 * patient is a function of that patient and the weights alone. Places that nobody fills make whole vectors.
 *
 * Compiled by `kernels.native_private`. The fused sums change nothing forward, for nothing is rounded there; backward
 * they round once where `ExactNetwork.rounding` allows for two.
 *
 * Activations are [units, places], weights [outputs and up to ROWS - 1 of zeros, inputs and zeros to whole vectors].
 */
#include "lanes.h"

#define ROWS 4 /* of a tile, which stays in registers */
#define MOST_LAYERS 16

/* As in `site.exact_network`. */
#define UNIT 0x1p-53
#define SIGMOID 8.0
#define LEAST 0x1p-1000

/* As in `privacy.alias_table`. */
#define ALIAS 32767u
#define CENTRE 16384

struct network {
    int64_t layers;                 /* linear ones, with max(x, 0) between */
    int64_t width[MOST_LAYERS + 1]; /* of what comes in, then of what each layer gives; the last is 1 */
    int64_t biased[MOST_LAYERS];
};

struct layer {
    long in, out, wide, tall;          /* inputs, outputs, and both as they are padded */
    const double *weights, *bias;      /* the caller's; no bias: NULL */
    double *rounded, *offset;          /* [tall, wide], [tall] on the lattice */
    double *came, *rows;               /* [wide, places] what came in, on the lattice; [places, wide] the same */
    double *gave, *slope, *scaled;     /* [tall, places] what was given, its gradient, that times what it is scaled by */
    double *scale, *offset_scale;      /* [places] of the weights' gradient, and the bias' */
    double *sum;                       /* [tall, wide] before it is the caller's */
};

/* c[i][:] = start[i] + sum over k of a(i, k) b[k][:], for ROWS rows and so many vectors; a(i, k) is a[i * down + k * along]. */
INLINE void tile(const double *a, long down, long along, const double *b, long b_row, double *c, long c_row, long depth,
                 const double *start, const int vectors) {
    vec sum[ROWS][2];
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < vectors; v++) sum[i][v] = (vec){0} + (start ? start[i] : 0.0);
    for (long k = 0; k < depth; k++) {
        vec row[2];
        for (int v = 0; v < vectors; v++) row[v] = *(const loose *)(b + k * b_row + v * LANES);
        for (int i = 0; i < ROWS; i++)
            for (int v = 0; v < vectors; v++) sum[i][v] = fused(a[i * down + k * along], row[v], sum[i][v]);
    }
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < vectors; v++) *(loose *)(c + i * c_row + v * LANES) = sum[i][v];
}

/* The product, `rows` being whole tiles and `wide` whole vectors. */
static __attribute__((noinline)) void product(const double *a, long down, long along, const double *b, long b_row, double *c, long c_row, long rows,
                    long depth, long wide, const double *start) {
    for (long i = 0; i < rows; i += ROWS) {
        const double *from = start ? start + i : NULL;
        long j = 0;
        for (; j + 2 * LANES <= wide; j += 2 * LANES)
            tile(a + i * down, down, along, b + j, b_row, c + i * c_row + j, c_row, depth, from, 2);
        if (j < wide) tile(a + i * down, down, along, b + j, b_row, c + i * c_row + j, c_row, depth, from, 1);
    }
}

/* The layer's weights on their lattice; their L2 length, no number where there is none. */
static double round_weights(struct layer *l) {
    const double onto =
        onto_lattice_of(l->in * largest(l->weights, l->out * l->in) + (l->bias ? largest(l->bias, l->out) : 0.0));
    double square[LANES] = {0}, nothing = 0;
    for (long o = 0; o < l->out; o++) {
        const double *restrict own = l->weights + o * l->in;
        double *restrict to = l->rounded + o * l->wide;
        for (long i = 0; i < l->in; i++) to[i] = (own[i] + onto) - onto;
        for (long i = 0; i < l->wide; i += LANES)
            for (int v = 0; v < LANES; v++) square[v] += to[i + v] * to[i + v];
        if (l->bias) l->offset[o] = (l->bias[o] + onto) - onto, nothing += 0 * l->offset[o];
    }
    return sqrt((square[0] + square[1]) + (square[2] + square[3])) + nothing;
}

static double rounding(struct layer *l, long layers) {
    double far = 1, off = SIGMOID, total = 0;
    for (long n = layers - 1; n >= 0; n--) {
        const double length = round_weights(l + n);
        /* Of the first layer the length itself does not matter, but that it is a number. */
        total += off * (CAP * sqrt((double)l[n].in) + 1) + 0 * length;
        far *= length;
        off = off * length + (double)(l[n].out + 2) * (far < LEAST ? LEAST : far);
    }
    return 2 * UNIT * total;
}

static void forward(struct layer *l, long layers, long places) {
    for (long n = 0; n < layers; n++) {
        product(l[n].rounded, l[n].wide, 1, l[n].came, places, l[n].gave, places, l[n].tall, l[n].in, places, l[n].offset);
        if (n < layers - 1)
            for (long i = 0; i < l[n].out * places; i++)
                l[n + 1].came[i] = onto_lattice(l[n].gave[i] < 0 ? 0 : l[n].gave[i]);
    }
}

/* The gradients of what each layer gives, from the last one's. */
static void backward(struct layer *l, long layers, long places) {
    for (long n = layers - 1; n > 0; n--) {
        double *slope = l[n - 1].slope;
        const double *gave = l[n - 1].gave;
        product(l[n].rounded, 1, l[n].wide, l[n].slope, places, slope, places, l[n - 1].tall, l[n].out, places, NULL);
        for (long i = 0; i < l[n - 1].out * places; i++) slope[i] = gave[i] <= 0 || gave[i] >= CAP ? 0 : slope[i];
    }
}

static void add_squares(const double *restrict units, long count, long places, double *restrict to) {
    memset(to, 0, places * sizeof(double));
    for (long u = 0; u < count; u++)
        for (long p = 0; p < places; p++) to[p] = fma(units[u * places + p], units[u * places + p], to[p]);
}

/* What each array's gradient is scaled by, patient by patient: 0 where nobody stands, or one whose gradient is not finite. */
static void clip(struct layer *l, long layers, const struct job *job, long places, int per_layer, double *total) {
    memset(total, 0, places * sizeof(double));
    for (long n = 0; n < layers; n++) {
        add_squares(l[n].slope, l[n].out, places, l[n].offset_scale);
        add_squares(l[n].came, l[n].in, places, l[n].scale);
        for (long p = 0; p < places; p++) {
            l[n].scale[p] *= l[n].offset_scale[p];
            total[p] += l[n].bias ? l[n].scale[p] + l[n].offset_scale[p] : l[n].scale[p];
        }
    }
    for (long p = 0; p < places; p++) {
        int is_finite = 1;
        for (long n = 0; n < layers; n++)
            is_finite &= isfinite(l[n].scale[p]) && (!l[n].bias || isfinite(l[n].offset_scale[p]));
        const double norm = is_finite ? sqrt(total[p]) : INFINITY;
        if (p < job->taken) job->norms[p] = norm;
        for (long n = 0; n < layers; n++) {
            const double own = per_layer ? sqrt(l[n].scale[p]) : norm;
            const double offset = per_layer ? sqrt(l[n].offset_scale[p]) : norm;
            const int counts = is_finite && p < job->taken;
            l[n].scale[p] = counts ? job->bound / (own > job->bound ? own : job->bound) : 0;
            l[n].offset_scale[p] = counts ? job->bound / (offset > job->bound ? offset : job->bound) : 0;
        }
    }
}

/* What came in, patient by patient; 0 for whom nothing counts. */
static void turn(const double *restrict came, const double *restrict scale, double *restrict rows, long in, long wide, long places) {
    for (long p = 0; p < places; p += LANES)
        for (long i = 0; i < in; i++)
            for (int v = 0; v < LANES; v++) rows[(p + v) * wide + i] = scale[p + v] > 0 ? came[i * places + p + v] : 0;
}

/* Each unit's gradients times what each patient's is scaled by; 0 for whom nothing counts. */
static void scale_all(const double *restrict slope, const double *restrict scale, double *restrict scaled, long units, long places) {
    for (long o = 0; o < units; o++)
        for (long p = 0; p < places; p++)
            scaled[o * places + p] = scale[p] > 0 ? scale[p] * slope[o * places + p] : 0;
}

/* The sums of the scaled gradients, as the caller has its weights. */
static void add_up(struct layer *l, long layers, long places, double *sum) {
    for (long n = 0; n < layers; n++) {
        turn(l[n].came, l[n].scale, l[n].rows, l[n].in, l[n].wide, places);
        scale_all(l[n].slope, l[n].scale, l[n].scaled, l[n].tall, places);
        product(l[n].scaled, places, 1, l[n].rows, l[n].wide, l[n].sum, l[n].wide, l[n].tall, places, l[n].wide, NULL);
        for (long o = 0; o < l[n].out; o++, sum += l[n].in) memcpy(sum, l[n].sum + o * l[n].wide, l[n].in * sizeof(double));
        if (!l[n].bias) continue;
        for (long o = 0; o < l[n].out; o++) {
            const double *slope = l[n].slope + o * places, *scale = l[n].offset_scale;
            double found[LANES] = {0};
            for (long p = 0; p < places; p += LANES)
                for (int v = 0; v < LANES; v++) found[v] += scale[p + v] > 0 ? scale[p + v] * slope[p + v] : 0;
            *sum++ = (found[0] + found[1]) + (found[2] + found[3]);
        }
    }
}

static void work_out(struct layer *l, const struct network *net, int per_layer, struct job *job, double *total) {
    const long layers = net->layers, places = whole(job->taken, LANES), last = layers - 1;
    const double *at = job->weights;
    for (long n = 0; n < layers; n++) {
        l[n].weights = at, at += l[n].out * l[n].in;
        l[n].bias = net->biased[n] ? at : NULL, at += net->biased[n] ? l[n].out : 0;
    }
    job->rounding = rounding(l, layers);
    for (long p = 0; p < places; p++) {
        const float *row = p < job->taken ? job->x + job->who[p] * job->columns : NULL;
        for (long i = 0; i < l[0].in; i++) l[0].came[i * places + p] = row ? onto_lattice(row[i]) : 0;
    }
    forward(l, layers, places);
    memset(l[last].slope, 0, l[last].tall * places * sizeof(double));
    for (long p = 0; p < job->taken; p++)
        l[last].slope[p] = 1 / (1 + exp(-l[last].gave[p])) - (double)job->y[job->who[p]];
    backward(l, layers, places);
    clip(l, layers, job, places, per_layer, total);
    add_up(l, layers, places, job->sum);
}

/* Lay the layers out in `space`, of which each has its part; how many numbers they take. Without a space it is counted alone. */
static long lay_out(const struct network *net, long places, struct layer *l, double *space) {
    long at = 0;
    for (long n = 0; n < net->layers; n++) {
        l[n].in = net->width[n], l[n].out = net->width[n + 1];
        l[n].wide = whole(l[n].in, LANES), l[n].tall = whole(l[n].out, ROWS);
        const long weights = l[n].tall * l[n].wide, came = l[n].wide * places, gave = l[n].tall * places;
        double **parts[] = {&l[n].rounded, &l[n].sum,    &l[n].came,  &l[n].rows,         &l[n].gave,
                            &l[n].slope,   &l[n].scaled, &l[n].scale, &l[n].offset_scale, &l[n].offset};
        const long sizes[] = {weights, weights, came, came, gave, gave, gave, places, places, l[n].tall};
        for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; at += sizes[i++])
            if (space) *parts[i] = space + at;
    }
    return at;
}

/* How many numbers of space steps of at most `taken` patients need, a vector to begin at a line of the cache included. */
int64_t space_for(const struct network *net, int64_t taken) {
    struct layer l[MOST_LAYERS];
    const long places = whole(taken, LANES);
    return lay_out(net, places, l, NULL) + places + 8;
}

/* The clipped sum of every hospital, each of at most `most` patients, in a space for so many that holds zeros or what
 * an earlier call for the same network and the same `most` left. */
void clipped_sums(const struct network *net, int64_t per_layer, struct job *jobs, int64_t count, double *space, int64_t most) {
    struct layer l[MOST_LAYERS];
    space = (double *)(((uintptr_t)space + 63) / 64 * 64);
    double *total = space + lay_out(net, whole(most, LANES), l, space);
    for (int64_t j = 0; j < count; j++) work_out(l, net, per_layer, jobs + j, total);
}

/* The table's value for each word, before the centre is taken off; how many words its packed part leaves open, and in
 * `open` where they are. As `privacy.noise` has it. */
int64_t look_up(const uint32_t *words, int64_t n, const uint32_t *packed, int32_t *values, int64_t *open) {
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t word = words[i], column = word & ALIAS, own = packed[column];
        values[i] = (word | ALIAS) < own ? column : own & ALIAS;
        if (__builtin_expect((word ^ own) <= ALIAS, 0)) open[found++] = i;
    }
    return found;
}

/* The sums on their lattice, with the draws added; the second half of the draws counts `stretch` times. What is added
 * up are integers below 2^44, which float64 adds without rounding. */
void add_noise(double *sums, int64_t n, const int32_t *draws, int32_t stretch, double step) {
    for (int64_t i = 0; i < n; i++) {
        const int32_t noise = (draws[i] - CENTRE) + stretch * (draws[n + i] - CENTRE);
        sums[i] = (rint(sums[i] / step) + (double)noise) * step;
    }
}
