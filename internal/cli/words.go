package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// pairs writes a map as k=v, sorted.
func pairs(m map[string]string) string {
	list := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, k+"="+m[k])
	}
	return strings.Join(list, ",")
}

// article is a word with a or an before it.
func article(word string) string {
	if strings.HasPrefix(word, "ssh") {
		return "an " + word // as it is spoken
	}
	return "a " + word
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// splitWords splits a command line as a shell does, by spaces, with quotes and
// backslashes, and with nothing else of a shell: what it gives is run as it
// is. Whoever wants a shell writes sh -c '…'.
func splitWords(line string) ([]string, error) {
	var (
		words  []string
		word   strings.Builder
		quote  rune
		inWord bool
		escape bool
	)
	for _, r := range line {
		switch {
		case escape:
			word.WriteRune(r)
			escape = false
		case r == '\\' && quote != '\'':
			escape, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escape {
		return nil, wrongUse("close the quote", "the command %q ends in the middle of a word", line)
	}
	if inWord {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, wrongUse("name a program and its arguments", "the command is empty")
	}
	return words, nil
}

func outOf(n, most int) string { return fmt.Sprintf("%d/%d", n, most) }
