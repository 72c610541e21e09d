package main

import (
	"strings"
	"testing"
)

func TestAWrongCommandLineIsAnsweredWithWhatToDo(t *testing.T) {
	for _, c := range []struct{ line, says string }{
		{"-app web -env stage -url x -token agt_x", "-token"},
		{"-app web -env stage", "nothing to measure"},
		{"-app web -env stage -host -pid 1", "leave out one"},
		{"-app web -env stage -host -every 5", "invalid"},
		{"-app web -host", "required"},
	} {
		var told strings.Builder
		_, err := parse(strings.Fields(c.line), func(string) string { return "" }, &told)
		if err == nil || !strings.Contains(told.String(), c.says) {
			t.Errorf("%s: %v\n%s", c.line, err, told.String())
		}
	}
}
