/* The rows of balance.h, all of them at once, by a team of threads of a GPU. */
#ifndef KLCAL_DEVICE_BALANCE_H
#define KLCAL_DEVICE_BALANCE_H

/* One value at an end, by its number from outside. */
INLINE int32_t place_at_end(const Balance *balance, int64_t i, int sign) {
    return (int32_t)(sign > 0 ? balance->size - 1 - i : i);
}

INLINE double nth_at_end(const Costs *costs, int64_t i, int sign) {
    return value_at_end(costs, place_at_end(costs->balance, i, sign), sign);
}

/* Room for units of so many values; null if there is no memory. */
static Balance *room_for_balance(Costs *costs, int64_t size) {
    int64_t all = size + 4;
    size_t bytes = sizeof(Balance) + (size_t)all * (2 * sizeof(double) + 3 * sizeof(float));
    Balance *balance = (Balance *)room(&costs->ends, bytes);
    if (balance && ALONE) {
        double *memory = (double *)(balance + 1);
        costs->balance = balance;
        balance->above.excess = memory; /* and those of the lower end behind them */
        balance->above.number = memory + all;
        balance->width = (float *)(memory + 2 * all);
        balance->low = balance->width + all;
        balance->share = balance->low + all;
    }
    MEET;
    return balance;
}

/* How often values occur beyond each value of an end, with it; and the terms of Σ excess where the end is there. */
static void fill_numbers_of_end(const Costs *costs, const End *end, int sign) {
    EACH(i, end->size + 1)
        end->number[i] = count_at_end(costs, place_at_end(costs->balance, i, sign), nth_at_end(costs, i, sign));
}

static void fill_excess_of_end(const Costs *costs, const End *end, int sign) {
    EACH(i, end->size + 1) {
        double step = i ? nth_at_end(costs, i - 1, sign) - nth_at_end(costs, i, sign) : 0;
        end->excess[i] = i ? end->number[i - 1] * step : 0;
    }
}

/* Writes a row for each value that one end reaches, but for the first one. */
static void fill_rows_of_end(const Costs *costs, const End *one, const End *other, int sign) {
    EACH(each, one->size) {
        int64_t i = each + 1;
        double own_excess = one->excess[i]; /* where the other end has the same, the upper one goes first */
        double limit = sign > 0 ? own_excess : nextafter(own_excess, (double)INFINITY);
        int64_t j = number_below(other->excess + 1, other->size, limit);
        double own = nth_at_end(costs, i, sign), least = nth_at_end(costs, j + 1, -sign);
        double moved = nth_at_end(costs, j, -sign) - (own_excess - other->excess[j]) / other->number[j];
        moved = moved > least ? moved : least;
        double number = sign > 0 ? one->number[i] : other->number[j];
        put_row(costs->balance, 1 + i + j, own + moved, sign > 0 ? moved : own,
                number / (one->number[i] + other->number[j]));
    }
}

/* All rows of a unit of so many values. */
static int fill_balance(Costs *costs, const int64_t *sizes) {
    Balance *balance = room_for_balance(costs, costs->size);
    if (!balance) return 0;
    End *above = &balance->above, *below = &balance->below;
    int64_t positive = 0, negative = 0;
    EACH(i, *sizes) {
        positive += value_at_end(costs, (int32_t)i, 1) > 0;
        negative += value_at_end(costs, (int32_t)i, -1) > 0;
    }
    positive = sum_of_team(positive), negative = sum_of_team(negative);
    if (ALONE) {
        balance->size = *sizes;
        balance->rows = positive + negative + 2;
        above->size = positive, below->size = negative;
        below->excess = above->excess + positive + 1;
        below->number = above->number + positive + 1;
    }
    MEET;
    fill_numbers_of_end(costs, above, 1), fill_numbers_of_end(costs, below, -1);
    Running numbers[] = {{above->number, positive + 1, 0}, {below->number, negative + 1, 0}};
    add_up(numbers, 2);
    fill_excess_of_end(costs, above, 1), fill_excess_of_end(costs, below, -1);
    Running excess[] = {{above->excess, positive + 1, 0}, {below->excess, negative + 1, 0}};
    add_up(excess, 2);
    if (ALONE) {
        double high = nth_at_end(costs, 0, 1), low = nth_at_end(costs, 0, -1);
        put_row(balance, 0, high + low, low, 1);
        put_row(balance, 1, high + low, low, above->number[0] / (above->number[0] + below->number[0]));
    }
    fill_rows_of_end(costs, above, below, 1), fill_rows_of_end(costs, below, above, -1);
    MEET;
    return 1;
}

#endif
