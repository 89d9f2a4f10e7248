/* Private steps of networks over time: each hospital's clipped sum, through a GRU or two convolutions.
 *
 * What is worked out is what `kernels.exact` works out with the bodies of `site.exact_series`, which are its oracles. Four
 * patients are taken at a time, side by side, each in a lane of its own. Forward the bits are the oracle's: sums lie on
 * lattices, and what is between is done in its order. Backward nothing needs to be split: what is worked out for a
 * patient comes in the same order in any company, so that plain float64 is the patient's own already. As there, a
 * patient whose gradient is 2^401 or more anywhere on its way counts for nothing.
 *
 * Gradients are by patient, [weights] vectors in the order that torch has the weights in.
 */
#include "lanes.h"

#define ARRAYS 6 /* the weights and biases of two parts of the body, and of the head */
#define TILE_ROWS 4 /* of a tile of TILE_VECTORS, which stays in registers */
#define TILE_VECTORS 3
#define TALL_ROWS 8 /* of a tile of one vector */

/* As in `site.exact_series` and `site.exact_sums`. */
#define ONTO_STATES (1.5 * 67108864.0) /* 2^(52 - INPUT_BITS) */
#define TOO_FAR 0x1p401
#define VANISHING 0x1p-500 /* as in `site.exact_network` */

/* As in `site.bends`. */
#define PLACES (64 << 8)
#define ONTO_PLACE (1.5 * 17592186044416.0) /* 2^(52 - _BITS) */
#define FAR 20.0

typedef int64_t mask __attribute__((vector_size(32))); /* all bits of a lane, or none */

struct network {
    int64_t is_recurrent; /* or of convolutions */
    int64_t fixed;        /* columns without time, which come first */
    int64_t steps, across, hidden;
    int64_t seen;         /* steps that a filter sees */
    const double *tanh;   /* [PLACES] as `site.bends` has them */
};

struct room {
    long start[ARRAYS + 1]; /* where each array begins among the weights */
    long summary;           /* what the body gives */
    double *weights, *turned;
    int64_t *from;          /* where among what comes in a weight's number stands */
    vec *gradient, *total;  /* [weights] of four patients, and of all */
    vec *into_head, *slope; /* [summary and columns without time] and the gradient of the summary */
    /* Of convolutions, [channels, steps], and [channels, steps and both edges of zeros] for what a filter sees. */
    vec *came, *first, *between, *second, *of_second, *of_first, *folded;
    /* Of a GRU, [steps, units]; `came` is of both. */
    vec *states, *gate, *bent, *let, *kept, *of_gates, *by_input, *by_state, *along, *gone;
};

INLINE vec all(double a) { return (vec){a, a, a, a}; }

INLINE vec pick(mask which, vec yes, vec no) { return (vec)((which & (mask)yes) | (~which & (mask)no)); }

/* Where it is a number not too far off. */
INLINE mask is_near(vec x) { return (x < TOO_FAR) & (x > -TOO_FAR); }

INLINE vec onto(vec x) {
    x = pick(x < -CAP, all(-CAP), x);
    x = pick(x > CAP, all(CAP), x);
    return (x + ONTO_LATTICE) - ONTO_LATTICE;
}

/* The hyperbolic tangent, by the operations of `site.bends`. */
INLINE vec bend(vec x, const double *tanh) {
    x = pick(x < -FAR, all(-FAR), x);
    x = pick(x > FAR, all(FAR), x);
    vec work = x + ONTO_PLACE, at_place;
    const mask place = (mask)work & (PLACES - 1);
    for (int v = 0; v < LANES; v++) at_place[v] = tanh[place[v]];
    work -= ONTO_PLACE;
    x -= work;
    work = x * x;
    work *= -1.0 / 3.0;
    work *= x;
    x += work;
    work = at_place * x + 1.0;
    return (x + at_place) / work;
}

/* out[i, j] = start[i] + sum over d of weights[i, d] in[from[d], j], for so many rows and columns. */
INLINE void tile(const double *weights, long depth, const double *start, const vec *in, const int64_t *from, vec *out,
                 long out_row, const int rows, const int columns) {
    vec sum[TALL_ROWS][TILE_VECTORS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) sum[i][j] = all(start ? start[i] : 0.0);
    for (long d = 0; d < depth; d++) {
        const vec *own = in + from[d];
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) sum[i][j] = fused(weights[i * depth + d], own[j], sum[i][j]);
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) out[i * out_row + j] = sum[i][j];
}

INLINE void strip(const double *weights, long depth, const double *start, const vec *in, const int64_t *from, vec *out,
                  long out_row, long rows, const int tall, const int columns) {
    long i = 0;
    for (; i + tall <= rows; i += tall)
        tile(weights + i * depth, depth, start ? start + i : NULL, in, from, out + i * out_row, out_row, tall, columns);
    for (; i < rows; i++)
        tile(weights + i * depth, depth, start ? start + i : NULL, in, from, out + i * out_row, out_row, 1, columns);
}

/* The product of [rows, depth] weights with so many columns of what came in. */
static __attribute__((noinline)) void product(const double *weights, long depth, const double *start, const vec *in,
                                              const int64_t *from, vec *out, long out_row, long rows, long columns) {
    long j = 0;
    for (; j + TILE_VECTORS <= columns; j += TILE_VECTORS)
        strip(weights, depth, start, in + j, from, out + j, out_row, rows, TILE_ROWS, TILE_VECTORS);
    for (; j < columns; j++) strip(weights, depth, start, in + j, from, out + j, out_row, rows, TALL_ROWS, 1);
}

/* What a sum over time takes: where the gradients and what came in stand, by row or channel and by step. */
struct over_time {
    const vec *left;
    long row, step;
    const vec *in;
    const int64_t *from;
    long in_step, steps;
};

/* out[i, d] = sum over t of left[i, t] in[from[d], t] */
INLINE void total_tile(const struct over_time *o, long i, long d, vec *out, long depth, const int rows, const int columns) {
    vec sum[TALL_ROWS][TILE_VECTORS];
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++) sum[a][b] = all(0);
    const vec *in[TILE_VECTORS];
    for (int b = 0; b < columns; b++) in[b] = o->in + o->from[d + b];
    const vec *left = o->left + i * o->row;
    const long row = o->row, step = o->step, in_step = o->in_step;
    for (long t = 0; t < o->steps; t++)
        for (int a = 0; a < rows; a++)
            for (int b = 0; b < columns; b++)
                sum[a][b] = fused_each(left[a * row + t * step], in[b][t * in_step], sum[a][b]);
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++) out[(i + a) * depth + d + b] = sum[a][b];
}

INLINE void total_strip(const struct over_time *o, long i, vec *out, long depth, const int rows) {
    long d = 0;
    for (; d + TILE_VECTORS <= depth; d += TILE_VECTORS) total_tile(o, i, d, out, depth, rows, TILE_VECTORS);
    for (; d < depth; d++) total_tile(o, i, d, out, depth, rows, 1);
}

/* The gradients of so many rows of weights, and of their biases. */
static __attribute__((noinline)) void totals(const struct over_time *o, vec *weights, vec *biases, long rows, long depth) {
    long i = 0;
    for (; i + TILE_ROWS <= rows; i += TILE_ROWS) total_strip(o, i, weights, depth, TILE_ROWS);
    for (; i < rows; i++) total_strip(o, i, weights, depth, 1);
    for (i = 0; i < rows; i++) {
        biases[i] = all(0);
        for (long t = 0; t < o->steps; t++) biases[i] += o->left[i * o->row + t * o->step];
    }
}

/* One layer's weights and biases on their lattice; 0, or not a number where there is none. */
static double round_layer(const struct room *r, const double *given, int weight, int bias, long depth) {
    const long *start = r->start;
    const double longest = depth * largest(given + start[weight], start[weight + 1] - start[weight]) +
                           largest(given + start[bias], start[bias + 1] - start[bias]);
    const double onto = onto_lattice_of(longest);
    const int arrays[] = {weight, bias};
    double nothing = 0;
    for (int a = 0; a < 2; a++)
        for (long i = start[arrays[a]]; i < start[arrays[a] + 1]; i++) {
            r->weights[i] = (given[i] + onto) - onto;
            nothing += 0 * r->weights[i];
        }
    return nothing;
}

/* The weights on their lattices, and those that go back the other way round. */
static double prepare(const struct network *n, const struct room *r, const double *given) {
    const long hidden = n->hidden, seen = n->seen, edged = n->steps + seen - 1;
    double nothing = round_layer(r, given, 4, 5, r->summary + n->fixed);
    if (n->is_recurrent) {
        nothing += round_layer(r, given, 0, 2, n->across) + round_layer(r, given, 1, 3, hidden);
        const double *by_state = r->weights + r->start[1];
        for (long j = 0; j < 3 * hidden; j++)
            for (long i = 0; i < hidden; i++) r->turned[i * 3 * hidden + j] = by_state[j * hidden + i];
        /* The logistic function is a hyperbolic tangent of half as much: its gates are halved here, which is exact. */
        const long across[] = {n->across, hidden, 1, 1};
        for (int a = 0; a < 4; a++)
            for (long i = 0; i < 2 * hidden * across[a]; i++) r->weights[r->start[a] + i] *= 0.5;
        for (long d = 0; d < (n->across > 3 * hidden ? n->across : 3 * hidden); d++) r->from[d] = d;
        return nothing;
    }
    nothing += round_layer(r, given, 0, 1, n->across * seen) + round_layer(r, given, 2, 3, hidden * seen);
    /* Back through a convolution is one with its steps turned round. */
    const double *second = r->weights + r->start[2];
    for (long o = 0; o < hidden; o++)
        for (long c = 0; c < hidden; c++)
            for (long k = 0; k < seen; k++)
                r->turned[(c * hidden + o) * seen + k] = second[(o * hidden + c) * seen + seen - 1 - k];
    for (long c = 0; c < (n->across > hidden ? n->across : hidden); c++)
        for (long k = 0; k < seen; k++) r->from[c * seen + k] = c * edged + k;
    return nothing;
}

static void convolve(const struct network *n, const struct room *r) {
    const long hidden = n->hidden, steps = n->steps, edge = n->seen / 2, edged = steps + 2 * edge;
    const double *weights = r->weights;
    const long *start = r->start;
    product(weights + start[0], n->across * n->seen, weights + start[1], r->came, r->from, r->first, steps, hidden, steps);
    for (long o = 0; o < hidden; o++)
        for (long t = 0; t < steps; t++) {
            vec *first = r->first + o * steps + t;
            *first = pick(*first < 0, all(0), *first);
            r->between[o * edged + edge + t] = onto(*first);
        }
    product(weights + start[2], hidden * n->seen, weights + start[3], r->between, r->from, r->second, steps, hidden, steps);
    for (long o = 0; o < hidden; o++) {
        vec *second = r->second + o * steps, most = all(0);
        for (long t = 0; t < steps; t++) {
            second[t] = pick(second[t] < 0, all(0), second[t]);
            most = pick(second[t] > most, second[t], most);
            r->folded[t] = second[t];
        }
        /* In the order of `exact_sums.row_sums`. */
        for (long width = steps; width > 1; width = width / 2 + width % 2) {
            const long half = width / 2;
            for (long t = 0; t < half; t++) r->folded[t] += r->folded[half + t];
            if (width % 2) r->folded[half] = r->folded[2 * half];
        }
        r->into_head[o] = r->folded[0] / (double)steps;
        r->into_head[hidden + o] = most;
    }
}

static mask convolve_back(const struct network *n, const struct room *r) {
    const long hidden = n->hidden, steps = n->steps, edge = n->seen / 2, edged = steps + 2 * edge;
    mask near = is_near(all(0));
    for (long o = 0; o < hidden; o++) {
        const vec *second = r->second + o * steps;
        vec most = all(0), sharing = all(0);
        for (long t = 0; t < steps; t++) most = pick(second[t] > most, second[t], most);
        for (long t = 0; t < steps; t++) sharing += pick(second[t] == most, all(1), all(0));
        /* Steps that share the greatest value share its gradient, as torch's. It is a number not too far off, or none of
         * the patient's are numbers: the head's weights are below 2^400. */
        const vec mean = r->slope[o] / (double)steps, share = r->slope[hidden + o] / sharing;
        for (long t = 0; t < steps; t++) {
            const vec own = mean + pick(second[t] == most, share, all(0));
            r->of_second[o * edged + edge + t] = pick(second[t] <= 0, all(0), own);
        }
    }
    product(r->turned, hidden * n->seen, NULL, r->of_second, r->from, r->of_first, steps, hidden, steps);
    for (long i = 0; i < hidden * steps; i++) {
        r->of_first[i] = pick((r->first[i] <= 0) | (r->first[i] >= CAP), all(0), r->of_first[i]);
        near &= is_near(r->of_first[i]);
    }
    vec *gradient = r->gradient;
    const long *start = r->start;
    const struct over_time first = {r->of_first, steps, 1, r->came, r->from, 1, steps};
    const struct over_time second = {r->of_second + edge, edged, 1, r->between, r->from, 1, steps};
    totals(&first, gradient + start[0], gradient + start[1], hidden, n->across * n->seen);
    totals(&second, gradient + start[2], gradient + start[3], hidden, hidden * n->seen);
    return near;
}

static void recur(const struct network *n, const struct room *r) {
    const long hidden = n->hidden;
    const double *weights = r->weights;
    const long *start = r->start;
    /* The state before the first step is the space's zeros. */
    for (long t = 0; t < n->steps; t++) {
        const vec *before = r->states + t * hidden;
        product(weights + start[0], n->across, weights + start[2], r->came + t * n->across, r->from, r->by_input, 1, 3 * hidden, 1);
        product(weights + start[1], hidden, weights + start[3], before, r->from, r->by_state, 1, 3 * hidden, 1);
        for (long u = 0; u < 2 * hidden; u++)
            r->gate[t * 2 * hidden + u] = bend(r->by_input[u] + r->by_state[u], n->tanh) * 0.5 + 0.5;
        const vec *reset = r->gate + t * 2 * hidden, *update = reset + hidden;
        for (long u = 0, at = t * hidden; u < hidden; u++, at++) {
            r->let[at] = reset[u] * r->by_state[2 * hidden + u];
            r->bent[at] = bend(r->by_input[2 * hidden + u] + r->let[at], n->tanh);
            r->kept[at] = (before[u] - r->bent[at]) * update[u];
            r->states[hidden + at] = ((r->bent[at] + r->kept[at]) + ONTO_STATES) - ONTO_STATES;
        }
    }
    memcpy(r->into_head, r->states + n->steps * hidden, hidden * sizeof(vec));
}

static mask recur_back(const struct network *n, const struct room *r) {
    const long hidden = n->hidden, steps = n->steps;
    mask near = is_near(all(0));
    memcpy(r->along, r->slope, hidden * sizeof(vec));
    for (long t = steps - 1; t >= 0; t--) {
        const vec *reset = r->gate + t * 2 * hidden, *update = reset + hidden;
        /* By unit of the reset, the update, the new gate's state, and the new gate: the first three meet the state. */
        vec *of = r->of_gates + t * 4 * hidden;
        for (long u = 0, at = t * hidden; u < hidden; u++, at++) {
            const vec shut = 1.0 - update[u], of_new = r->along[u] * ((1.0 - r->bent[at] * r->bent[at]) * shut);
            of[u] = of_new * ((1.0 - reset[u]) * r->let[at]);
            of[hidden + u] = r->along[u] * (shut * r->kept[at]);
            of[2 * hidden + u] = of_new * reset[u];
            of[3 * hidden + u] = of_new;
            /* The new gate's state has no more than the new gate. */
            near &= is_near(of[u]) & is_near(of[hidden + u]) & is_near(of_new);
        }
        if (!t) break;
        product(r->turned, 3 * hidden, NULL, of, r->from, r->gone, 1, hidden, 1);
        for (long u = 0; u < hidden; u++) r->along[u] = r->along[u] * update[u] + r->gone[u];
    }
    vec *gradient = r->gradient;
    const long *start = r->start;
    struct over_time by = {r->of_gates, 1, 4 * hidden, r->states, r->from, hidden, steps};
    totals(&by, gradient + start[1], gradient + start[3], 3 * hidden, hidden);
    by.in = r->came, by.in_step = n->across;
    totals(&by, gradient + start[0], gradient + start[2], 2 * hidden, n->across);
    by.left = r->of_gates + 3 * hidden;
    totals(&by, gradient + start[0] + 2 * hidden * n->across, gradient + start[2] + 2 * hidden, hidden, n->across);
    return near;
}

/* Lay the rows of up to four patients side by side, from the `first` of the step on. */
static void take(const struct network *n, const struct room *r, const struct job *job, long first) {
    const long edge = n->is_recurrent ? 0 : n->seen / 2, edged = n->steps + 2 * edge;
    const long along = n->is_recurrent ? n->across : 1, down = n->is_recurrent ? 1 : edged;
    for (int v = 0; v < LANES; v++) {
        const float *row = first + v < job->taken ? job->x + job->who[first + v] * job->columns : NULL;
        for (long i = 0; i < n->fixed; i++) r->into_head[r->summary + i][v] = row ? row[i] : 0;
        for (long t = 0; t < n->steps; t++)
            for (long c = 0; c < n->across; c++)
                r->came[c * down + (edge + t) * along][v] = row ? onto_lattice(row[n->fixed + t * n->across + c]) : 0;
    }
}

/* Through the head and back: its own gradients, and that of the summary. */
static void pass_head(const struct network *n, const struct room *r, const struct job *job, long first) {
    const double *weight = r->weights + r->start[4];
    vec *gradient = r->gradient + r->start[4], score = all(r->weights[r->start[5]]);
    const long inputs = r->summary + n->fixed;
    for (long i = 0; i < inputs; i++) {
        gradient[i] = onto(r->into_head[i]);
        score = fused(weight[i], gradient[i], score);
    }
    vec back = bend(score * 0.5, n->tanh) * 0.5 + 0.5;
    for (int v = 0; v < LANES; v++)
        back[v] = first + v < job->taken ? back[v] - (double)job->y[job->who[first + v]] : 0;
    for (long i = 0; i < inputs; i++) gradient[i] *= back;
    gradient[inputs] = back;
    for (long i = 0; i < r->summary; i++) {
        /* No body's summary reaches the cap below 0. */
        r->slope[i] = pick(r->into_head[i] >= CAP, all(0), weight[i] * back);
    }
}

/* Clip the gradients of those who count, whose `near` is set, and add them to the hospital's. */
static void add_clipped(const struct room *r, const struct job *job, long first, mask near, int per_layer) {
    vec square[ARRAYS], scale[ARRAYS], all_squares = all(0), norm;
    for (int a = 0; a < ARRAYS; a++) {
        vec part[LANES] = {all(0), all(0), all(0), all(0)};
        for (long i = r->start[a]; i < r->start[a + 1]; i++)
            part[i % LANES] = fused_each(r->gradient[i], r->gradient[i], part[i % LANES]);
        square[a] = (part[0] + part[1]) + (part[2] + part[3]);
        all_squares += square[a];
        near &= square[a] < INFINITY;
    }
    for (int v = 0; v < LANES; v++) {
        near[v] &= first + v < job->taken ? -1 : 0;
        norm[v] = near[v] ? sqrt(all_squares[v]) : INFINITY;
        if (first + v < job->taken) job->norms[first + v] = norm[v];
        for (int a = 0; a < ARRAYS; a++) {
            const double own = per_layer ? sqrt(square[a][v]) : norm[v];
            scale[a][v] = job->bound / (own > job->bound ? own : job->bound);
        }
    }
    for (int a = 0; a < ARRAYS; a++)
        for (long i = r->start[a]; i < r->start[a + 1]; i++)
            r->total[i] = fused_each(scale[a], pick(near, r->gradient[i], all(0)), r->total[i]);
}

static void work_out(const struct network *n, const struct room *r, int per_layer, struct job *job) {
    const long size = r->start[ARRAYS];
    job->rounding = VANISHING + prepare(n, r, job->weights);
    memset(r->total, 0, size * sizeof(vec));
    for (long first = 0; first < job->taken; first += LANES) {
        take(n, r, job, first);
        if (n->is_recurrent) recur(n, r);
        else convolve(n, r);
        pass_head(n, r, job, first);
        const mask near = n->is_recurrent ? recur_back(n, r) : convolve_back(n, r);
        add_clipped(r, job, first, near, per_layer);
    }
    for (long i = 0; i < size; i++)
        job->sum[i] = (r->total[i][0] + r->total[i][1]) + (r->total[i][2] + r->total[i][3]);
}

/* Lay everything out in `space`; how many numbers it takes. Without a space it is counted alone. */
static long lay_out(const struct network *n, struct room *r, double *space) {
    const long hidden = n->hidden, steps = n->steps, across = n->across, is_recurrent = n->is_recurrent;
    const long is_convolved = !is_recurrent, seen = n->seen, edged = is_convolved ? steps + seen - 1 : steps;
    const long wide = across > 3 * hidden ? across : 3 * hidden, most = across > hidden ? across : hidden;
    r->summary = is_recurrent ? hidden : 2 * hidden;
    const long inputs = r->summary + n->fixed;
    const long convolved[] = {hidden * across * seen, hidden, hidden * hidden * seen, hidden, inputs, 1};
    const long recurrent[] = {3 * hidden * across, 3 * hidden * hidden, 3 * hidden, 3 * hidden, inputs, 1};
    r->start[0] = 0;
    for (int a = 0; a < ARRAYS; a++) r->start[a + 1] = r->start[a] + (is_recurrent ? recurrent : convolved)[a];
    const long size = r->start[ARRAYS], first = is_convolved * hidden * steps, between = is_convolved * hidden * edged;
    const long states = is_recurrent * steps * hidden, units = is_recurrent * hidden;
    const struct {
        void *part;
        long numbers;
    } parts[] = {
        {&r->weights, size},
        {&r->turned, is_recurrent ? recurrent[1] : convolved[2]},
        {&r->from, is_recurrent ? wide : most * seen},
        {&r->gradient, size * LANES},
        {&r->total, size * LANES},
        {&r->into_head, inputs * LANES},
        {&r->slope, r->summary * LANES},
        {&r->came, across * edged * LANES},
        {&r->first, first * LANES},
        {&r->between, between * LANES},
        {&r->second, first * LANES},
        {&r->of_second, between * LANES},
        {&r->of_first, first * LANES},
        {&r->folded, is_convolved * steps * LANES},
        {&r->states, (states + units) * LANES},
        {&r->gate, 2 * states * LANES},
        {&r->bent, states * LANES},
        {&r->let, states * LANES},
        {&r->kept, states * LANES},
        {&r->of_gates, 4 * states * LANES},
        {&r->by_input, 3 * units * LANES},
        {&r->by_state, 3 * units * LANES},
        {&r->along, units * LANES},
        {&r->gone, units * LANES},
    };
    long at = 0;
    for (unsigned i = 0; i < sizeof parts / sizeof *parts; at += whole(parts[i++].numbers, 8))
        if (space) memcpy(parts[i].part, &(double *){space + at}, sizeof space);
    return at;
}

/* How many numbers of space steps need, however many patients they have; a line of the cache to begin at is included. */
int64_t space_for(const struct network *n, int64_t taken) {
    (void)taken;
    struct room r;
    return lay_out(n, &r, NULL) + 8;
}

/* The clipped sum of every hospital, in a space that holds zeros or what an earlier call for the same network left. */
void clipped_sums(const struct network *n, int64_t per_layer, struct job *jobs, int64_t count, double *space, int64_t most) {
    (void)most;
    struct room r;
    lay_out(n, &r, (double *)(((uintptr_t)space + 63) / 64 * 64));
    for (int64_t j = 0; j < count; j++) work_out(n, &r, per_layer, jobs + j);
}
