package phpconf

import (
	"strconv"
	"strings"

	"github.com/jailup/jailup/internal/conferr"
)

// statement is one thing that an ini file says.
type statement struct {
	kind  statementKind
	name  string // of the section, the directive, the array
	index string // of an array's element, "" for the next free one
	value string
	line  int
	// The text of the value is what lies between these offsets, without the
	// blanks around it.
	from, to int
}

type statementKind int

const (
	stSection statementKind = iota
	stEntry
	stBare // a name without a value: PHP passes it over
	stElement
)

// constants tells what a bare word stands for. Varies says that there is such a
// constant, whose value is not the same in every PHP.
type constants func(name string) (value string, ok, varies bool)

// variables tells what ${NAME} stands for. Where it is not ok what follows ":-"
// is taken, and where nothing does, the value all the same.
type variables func(name string) (value string, ok bool)

// parser puts words together to statements. As in PHP a fault ends the file,
// and what came before it is in force.
type parser struct {
	s        *scanner
	tok      token // the one that comes next
	end      int   // offset behind the one that came before it
	variable variables
	constant constants

	counted int // offset up to which lines were counted
	line    int
	depth   int
}

const (
	maxExpression = 100      // operators and parentheses in one another
	maxValue      = 64 << 10 // bytes of one value, with what its variables stand for
)

// parseIni calls do for each statement, in order, until one is refused. The
// fault is one of the language; its File is left to the caller.
func parseIni(data []byte, variable variables, constant constants, do func(statement) error) (*SyntaxError, error) {
	p := &parser{s: newScanner(data), variable: variable, constant: constant, line: 1}
	for p.advance(); ; {
		switch p.tok.kind {
		case tokEnd:
			return nil, nil
		case tokNewline:
			p.advance()
			continue
		}
		st, fault := p.statement()
		if fault != "" {
			return &SyntaxError{Line: p.lineAt(p.tok.pos), Msg: fault}, nil
		}
		if err := do(st); err != nil {
			return nil, err
		}
	}
}

func (p *parser) advance() {
	p.end = p.s.pos
	p.tok = p.s.next()
}

// lineAt counts line ends; offsets only ever grow.
func (p *parser) lineAt(pos int) int {
	for ; p.counted < pos && p.counted < len(p.s.data); p.counted++ {
		c := p.s.data[p.counted]
		if c == '\n' || c == '\r' && (p.counted+1 >= len(p.s.data) || p.s.data[p.counted+1] != '\n') {
			p.line++
		}
	}
	return p.line
}

func (p *parser) unexpected() string {
	switch p.tok.kind {
	case tokEnd:
		return "unexpected end of file"
	case tokNewline:
		return "unexpected end of line"
	}
	return "unexpected " + conferr.Show(p.tok.text)
}

// statement reads one; there is one, or a fault.
func (p *parser) statement() (st statement, fault string) {
	st.line = p.lineAt(p.tok.pos)
	st.name = p.tok.text
	switch p.tok.kind {
	case tokSection:
		st.kind = stSection
		p.advance()
		v, fault := p.list(false)
		st.name = v.text
		return st, p.expect(tokClose, fault)
	case tokLabel:
		p.advance()
		if p.tok.kind != tokEquals {
			st.kind = stBare
			return st, ""
		}
		st.kind = stEntry
	case tokOffset:
		st.kind = stElement
		p.advance()
		v, fault := p.list(true)
		st.index = v.text
		if fault = p.expect(tokClose, fault); fault != "" {
			return st, fault
		}
	default:
		return st, p.unexpected()
	}
	if fault = p.expect(tokEquals, ""); fault != "" {
		return st, fault
	}
	st.from, st.to = p.tok.pos, p.tok.pos
	empty := p.tok.kind == tokNewline
	st.value, fault = p.value()
	if !empty {
		for st.to = p.end; st.to > st.from && isBlank(p.s.data[st.to-1]); {
			st.to--
		}
	}
	return st, fault
}

// expect passes over a word of this kind, unless there is a fault already.
func (p *parser) expect(kind tokenKind, fault string) string {
	if fault == "" && p.tok.kind != kind {
		fault = p.unexpected()
	}
	if fault == "" {
		p.advance()
	}
	return fault
}

// operand is a value with the text it came from.
type operand struct {
	text     string
	varies   bool // what it is depends on PHP's version
	from, to int  // offsets of the text
}

// value reads what stands right of "=". An expression whose value is not the
// same in every PHP comes out as it was written.
func (p *parser) value() (string, string) {
	switch p.tok.kind {
	case tokTrue:
		p.advance()
		return "1", ""
	case tokFalse, tokNull, tokNewline:
		p.advance()
		return "", ""
	}
	v, fault := p.expression()
	if fault == "" && v.varies {
		v.text = trimBlanks(string(p.s.data[v.from:v.to]))
	}
	return v.text, fault
}

// expression reads operators, which all bind alike, from left to right.
func (p *parser) expression() (operand, string) {
	left, fault := p.term()
	for fault == "" && p.tok.kind == tokOperator && strings.Contains("|&^", p.tok.text) {
		op := p.tok.text
		p.advance()
		var right operand
		right, fault = p.term()
		a, b := number(left.text), number(right.text)
		switch op {
		case "|":
			a |= b
		case "&":
			a &= b
		case "^":
			a ^= b
		}
		left = operand{text: strconv.Itoa(int(a)), varies: left.varies || right.varies, from: left.from, to: right.to}
	}
	return left, fault
}

func (p *parser) term() (operand, string) {
	if p.tok.kind != tokOperator {
		return p.list(true)
	}
	if p.depth++; p.depth > maxExpression {
		return operand{}, "expression too deep"
	}
	defer func() { p.depth-- }()
	from, op := p.tok.pos, p.tok.text
	switch op {
	case "(":
		p.advance()
		v, fault := p.expression()
		if fault == "" && (p.tok.kind != tokOperator || p.tok.text != ")") {
			fault = p.unexpected()
		}
		if fault == "" {
			p.advance()
		}
		v.from, v.to = from, p.end
		return v, fault
	case "~", "!":
		p.advance()
		v, fault := p.term()
		n := number(v.text)
		if op == "~" {
			n = ^n
		} else if n == 0 {
			n = 1
		} else {
			n = 0
		}
		return operand{text: strconv.Itoa(int(n)), varies: v.varies, from: from, to: v.to}, fault
	}
	return operand{}, p.unexpected()
}

// number is atoi(3): what is no digit ends it.
func number(text string) int32 {
	text = strings.TrimLeft(text, " \t\n\v\f\r")
	n := 0
	if n < len(text) && (text[n] == '-' || text[n] == '+') {
		n++
	}
	for n < len(text) && isDigit(text[n]) {
		n++
	}
	i, err := strconv.ParseInt(text[:n], 10, 64)
	if err != nil {
		return 0
	}
	return int32(i) //nolint:gosec // as C does it
}

// list reads pieces that stand side by side and make one value. In a section's
// name it may be empty, and constants are plain text.
func (p *parser) list(constants bool) (operand, string) {
	var b strings.Builder
	v := operand{from: p.tok.pos}
	fault := ""
	for pieces := 0; fault == ""; pieces++ {
		switch p.tok.kind {
		case tokText:
			b.WriteString(p.tok.text)
			p.advance()
		case tokName:
			text := p.tok.text
			if constants {
				if known, ok, varies := p.constant(text); ok {
					text, v.varies = known, v.varies || varies
				}
			}
			b.WriteString(text)
			p.advance()
		case tokVar:
			fault = p.variableInto(&b)
		case tokQuote:
			fault = p.quotedInto(&b)
		default:
			v.text, v.to = b.String(), p.end
			if pieces == 0 && p.tok.kind != tokClose && p.tok.kind != tokVarEnd {
				fault = p.unexpected()
			}
			return v, fault
		}
		if b.Len() > maxValue {
			fault = "value too long"
		}
	}
	return v, fault
}

func (p *parser) quotedInto(b *strings.Builder) (fault string) {
	for p.advance(); fault == ""; {
		switch p.tok.kind {
		case tokQuoted:
			b.WriteString(p.tok.text)
			p.advance()
		case tokVar:
			fault = p.variableInto(b)
		case tokQuote:
			p.advance()
			return ""
		default:
			fault = p.unexpected()
		}
		if b.Len() > maxValue {
			fault = "value too long"
		}
	}
	return fault
}

// variableInto resolves ${NAME} and ${NAME:-OTHERWISE}.
func (p *parser) variableInto(b *strings.Builder) string {
	p.advance()
	name := p.tok.text
	if fault := p.expect(tokVarName, ""); fault != "" {
		return fault
	}
	value, ok := p.variable(name)
	if p.tok.kind == tokElse {
		if p.depth++; p.depth > maxExpression {
			return "expression too deep"
		}
		p.advance()
		otherwise, fault := p.list(true)
		p.depth--
		if fault != "" {
			return fault
		}
		if !ok {
			value = otherwise.text
		}
	}
	b.WriteString(value)
	return p.expect(tokVarEnd, "")
}
