/* answer_words.c - see answer_words.h. */
#include "task/answer_words.h"

#include <string.h>

static const struct word words[] = {
    { "and", T_AND, NULL },
    { "or", T_OR, NULL },
    { "percent", T_PERCENT, NULL },
    { "percentage", T_PERCENT, NULL },
    { "pct", T_PERCENT, NULL },
    { "degrees", T_DEGREE, NULL },
    { "degree", T_DEGREE, NULL },
    { "dollars", T_CURRENCY, "dollar" },
    { "dollar", T_CURRENCY, "dollar" },
    { "usd", T_CURRENCY, "dollar" },
    { "euros", T_CURRENCY, "euro" },
    { "euro", T_CURRENCY, "euro" },
    { "infinity", T_INF, NULL },
    { "infty", T_INF, NULL },
    { "inf", T_INF, NULL },
    { "oo", T_INF, NULL },
    { "pi", T_PI, NULL },
    { "am", T_AMPM, "am" },
    { "pm", T_AMPM, "pm" },
    { "sqrt", T_SQRT, NULL },
    { "sin", T_FUNC, "sin" },
    { "cos", T_FUNC, "cos" },
    { "tan", T_FUNC, "tan" },
    { "cot", T_FUNC, "cot" },
    { "sec", T_FUNC, "sec" },
    { "csc", T_FUNC, "csc" },
    { "arcsin", T_FUNC, "arcsin" },
    { "arccos", T_FUNC, "arccos" },
    { "arctan", T_FUNC, "arctan" },
    { "asin", T_FUNC, "arcsin" },
    { "acos", T_FUNC, "arccos" },
    { "atan", T_FUNC, "arctan" },
    { "sinh", T_FUNC, "sinh" },
    { "cosh", T_FUNC, "cosh" },
    { "tanh", T_FUNC, "tanh" },
    { "log", T_FUNC, "log" },
    { "ln", T_FUNC, "ln" },
    { "exp", T_FUNC, "exp" },
    { "gcd", T_FUNC, "gcd" },
    { "lcm", T_FUNC, "lcm" },
    { "max", T_FUNC, "max" },
    { "min", T_FUNC, "min" },
    { "abs", T_FUNC, "abs" },
    { "floor", T_FUNC, "floor" },
    { "ceil", T_FUNC, "ceil" },
    { "det", T_FUNC, "det" },
    { "asinh", T_FUNC, "arcsinh" },
    { "acosh", T_FUNC, "arccosh" },
    { "atanh", T_FUNC, "arctanh" },
    { "acot", T_FUNC, "arccot" },
    { "asec", T_FUNC, "arcsec" },
    { "acsc", T_FUNC, "arccsc" },
    { "arcsinh", T_FUNC, "arcsinh" },
    { "arccosh", T_FUNC, "arccosh" },
    { "arctanh", T_FUNC, "arctanh" },
    { "arsinh", T_FUNC, "arcsinh" },
    { "arcosh", T_FUNC, "arccosh" },
    { "artanh", T_FUNC, "arctanh" },
    { "arccot", T_FUNC, "arccot" },
    { "coth", T_FUNC, "coth" },
    { "sign", T_FUNC, "sign" },
    { "ceiling", T_FUNC, "ceil" },
    { "re", T_FUNC, "Re" },
    { "im", T_FUNC, "Im" },
    { "zero", T_NUM, "0" },
    { "one", T_NUM, "1" },
    { "two", T_NUM, "2" },
    { "three", T_NUM, "3" },
    { "four", T_NUM, "4" },
    { "five", T_NUM, "5" },
    { "six", T_NUM, "6" },
    { "seven", T_NUM, "7" },
    { "eight", T_NUM, "8" },
    { "nine", T_NUM, "9" },
    { "ten", T_NUM, "10" },
    { "eleven", T_NUM, "11" },
    { "twelve", T_NUM, "12" },
    { "thirteen", T_NUM, "13" },
    { "fourteen", T_NUM, "14" },
    { "fifteen", T_NUM, "15" },
    { "sixteen", T_NUM, "16" },
    { "seventeen", T_NUM, "17" },
    { "eighteen", T_NUM, "18" },
    { "nineteen", T_NUM, "19" },
    { "twenty", T_NUM, "20" },
    { "thirty", T_NUM, "30" },
    { "forty", T_NUM, "40" },
    { "fifty", T_NUM, "50" },
    { "sixty", T_NUM, "60" },
    { "seventy", T_NUM, "70" },
    { "eighty", T_NUM, "80" },
    { "ninety", T_NUM, "90" },
};

static const struct word scales[] = {
    { "hundred", T_NUM, "100" },
    { "thousand", T_NUM, "1000" },
    { "million", T_NUM, "1000000" },
    { "billion", T_NUM, "1000000000" },
    { "trillion", T_NUM, "1000000000000" },
    { "dozen", T_NUM, "12" },
    { "hundreds", T_BAD, NULL },
    { "thousands", T_BAD, NULL },
    { "millions", T_BAD, NULL },
    { "half", T_BAD, "2" },
    { "halves", T_BAD, "2" },
    { "third", T_BAD, "3" },
    { "thirds", T_BAD, "3" },
    { "quarter", T_BAD, "4" },
    { "quarters", T_TEXT, "4" },
    { "fourth", T_BAD, "4" },
    { "fourths", T_BAD, "4" },
    { "fifth", T_BAD, "5" },
    { "fifths", T_BAD, "5" },
    { "sixth", T_BAD, "6" },
    { "sixths", T_BAD, "6" },
    { "seventh", T_BAD, "7" },
    { "sevenths", T_BAD, "7" },
    { "eighth", T_BAD, "8" },
    { "eighths", T_BAD, "8" },
    { "ninth", T_BAD, "9" },
    { "ninths", T_BAD, "9" },
    { "tenth", T_BAD, NULL },
    { "tenths", T_BAD, NULL },
    { "hundredth", T_BAD, NULL },
    { "hundredths", T_BAD, NULL },
    { "thousandth", T_BAD, NULL },
    { "thousandths", T_BAD, NULL },
    { "times", T_BAD, NULL },
    { "not", T_BAD, NULL },
    { "minus", T_BAD, NULL },
    { "plus", T_BAD, NULL },
    { "over", T_BAD, NULL },
    { "squared", T_BAD, NULL },
    { "point", T_BAD, NULL },
};

static const char *const short_units[] = { "cm",  "mm",  "km",  "kg",  "ft",   "mi",   "mph", "kph", "lbs", "lb",
                                           "oz",  "hrs", "hr",  "min", "sec",  "yd",   "mL",  "ml",  "kmh", "sq",
                                           "rad", "day", "yen", "won", "mins", "secs", "yds", "kgs", "yr",  "yrs" };
static const char *const short_words[] = { "yes", "no",  "odd", "all",  "any", "none", "the", "not",
                                           "is",  "are", "red", "even", "to",  "of",   "in",  "at",
                                           "it",  "so",  "be",  "we",   "if",  "for",  "per" };

static bool in_list(struct span w, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (span_is(w, list[i]))
            return true;
    return false;
}

static const struct word *find(struct span w, const struct word *table, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (span_is_fold(w, table[i].word))
            return &table[i];
    return NULL;
}

const struct word *word_of(struct span w)
{
    return find(w, words, sizeof words / sizeof *words);
}

const struct word *scale_of(struct span w)
{
    return find(w, scales, sizeof scales / sizeof *scales);
}

const struct word *function_before_letter(struct span w)
{
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].kind == T_FUNC && w.n == strlen(words[i].word) + 1 && span_starts(w, words[i].word))
            return &words[i];
    return NULL;
}

bool is_digit_word(struct span digits)
{
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].kind == T_NUM && words[i].name == digits.s) /* the very same bytes, not equal ones */
            return digits.n == 1 && digits.s[0] != '0';
    return false;
}

bool is_short_word(struct span w)
{
    return in_list(w, short_words, sizeof short_words / sizeof *short_words);
}

bool is_short_unit(struct span w)
{
    return in_list(w, short_units, sizeof short_units / sizeof *short_units);
}
