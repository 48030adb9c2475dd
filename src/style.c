/*-------------------------------------------------------------------------
 *
 * style.c
 *		The head of a page, with its style.
 *
 * Colours are variables, once for light and once for dark.  Texts have a
 * contrast of at least 4.5:1 on what is behind them; no state is told by its
 * colour alone.  A table whose rows are long becomes a list of cards where the
 * window is narrow: each cell tells its column's name (data-l) there, and those
 * that say nothing ("none") are left out.  Paper is light, and has the tables.
 *
 * No '<' and no '&' in here: the page is XML as well.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "html.h"

static const char colours[] =
":root{color-scheme:light dark;--bg:#f5f6f8;--card:#fff;--ink:#1a1f26;--mute:#566070;"
"--rule:#e1e5ea;--track:#e9ecf0;--link:#1f5fc4;"
"--waiting:#2f6fde;--active:#12805c;--delayed:#b7791f;--blocked:#7c5cd6;--failed:#cf3a3a;"
"--completed:#12805c;--enqueued:#2f6fde;--p50:#2f6fde;--p95:#b7791f;"
"--critical:#b42323;--critical-bg:#fdecec;--warning:#85550a;--warning-bg:#fdf3dc;"
"--info:#1f5fc4;--info-bg:#e8f0fd;--good:#0d6b4c;--good-bg:#e2f5ec}\n"
"@media screen and (prefers-color-scheme:dark){:root{--bg:#101418;--card:#181d23;--ink:#e4e8ec;"
"--mute:#9ba6b3;--rule:#2a3139;--track:#2a3139;--link:#7fb0ff;"
"--waiting:#6ea3ff;--active:#3fbf8c;--delayed:#e0aa3e;--blocked:#a991ff;--failed:#ff7d75;"
"--completed:#3fbf8c;--enqueued:#6ea3ff;--p50:#6ea3ff;--p95:#e0aa3e;"
"--critical:#ff9a94;--critical-bg:#3a1b1c;--warning:#f0c365;--warning-bg:#352a12;"
"--info:#8fbaff;--info-bg:#17263d;--good:#62d3a4;--good-bg:#12301f}}\n";

static const char layout[] =
"*{box-sizing:border-box}\n"
"body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"
"'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;font-variant-numeric:tabular-nums;"
"-webkit-text-size-adjust:100%}\n"
"main,header,footer{max-width:1360px;margin:0 auto;padding:0 24px}\n"
"header{padding-top:36px}header h1{font-size:28px;line-height:1.2;letter-spacing:-.02em;margin:0}"
"header p{margin:6px 0 0;color:var(--mute)}\n"
"nav{max-width:1360px;margin:14px auto 0;padding:0 24px;display:flex;flex-wrap:wrap;gap:2px 20px;font-size:14px}"
"a{color:var(--link);text-decoration:none;padding:3px 0}a:hover{text-decoration:underline}section{scroll-margin-top:8px}\n"
"h2{font-size:17px;letter-spacing:-.01em;margin:36px 0 12px}h2 small{font-weight:400;font-size:14px;"
"color:var(--mute);margin-left:8px}\n"
".card{background:var(--card);border:1px solid var(--rule);border-radius:10px}\n"
".note{color:var(--mute);margin:10px 2px 0;font-size:14px}.empty{padding:18px 20px;color:var(--mute);"
"margin:0}\n"
"bdi,code,.name,.text{overflow-wrap:anywhere}.name{font-weight:600}\n"
"code,.mono{font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}\n"
".mute{color:var(--mute)}\n"
".pill{display:inline-block;border-radius:99px;padding:1px 9px;font-size:12.5px;font-weight:600;"
"white-space:nowrap;color:var(--mute);background:var(--track)}\n"
".pill.critical,.pill.failed,.pill.stale{color:var(--critical);background:var(--critical-bg)}"
".pill.warning{color:var(--warning);background:var(--warning-bg)}"
".pill.info{color:var(--info);background:var(--info-bg)}"
".pill.good{color:var(--good);background:var(--good-bg)}\n"
".sums{display:grid;grid-template-columns:repeat(6,1fr);gap:12px;margin:24px 0 0;padding:0}\n"
".sums div{padding:14px 18px}.sums dt{color:var(--mute);font-size:13.5px}.sums dd{margin:0;"
"font-size:26px;line-height:1.25;font-weight:600;letter-spacing:-.02em;overflow-wrap:anywhere}\n"
".key::before{content:'';display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:7px;"
"background:var(--mute)}"
".legend{margin:10px 0 0;display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13.5px;color:var(--mute)}\n";

static const char parts[] =
".alerts{list-style:none;margin:0;padding:0;overflow:hidden}"
".alerts li{padding:10px 20px;border-left:4px solid var(--mute);display:grid;grid-template-columns:"
"minmax(0,300px) minmax(0,1fr);gap:2px 20px}.alerts li+li{border-top:1px solid var(--rule)}"
".alerts p{margin:0}.alerts .mute{font-size:14px}.alerts code{margin-left:6px}"
".alerts .critical{border-left-color:var(--critical)}.alerts .warning{border-left-color:var(--warning)}"
".alerts .info{border-left-color:var(--info)}.alerts .pill{margin-right:8px}\n"
".allgood{padding:16px 20px;margin:0;color:var(--good);font-weight:600}\n"
"table{width:100%;border-collapse:collapse}th{text-align:left;font-size:13px;font-weight:600;"
"color:var(--mute);white-space:nowrap}th,td{padding:10px 12px;vertical-align:top}"
"th:first-child,td:first-child{padding-left:20px}th:last-child,td:last-child{padding-right:20px}"
"tbody tr{border-top:1px solid var(--rule)}.n{text-align:right;white-space:nowrap}"
".none{color:var(--mute)}.bad{color:var(--critical);font-weight:600}.ids{overflow-wrap:normal;min-width:96px}.label{min-width:96px}"
"td .pill{margin:0 4px 2px 0}td small{font-size:13px;color:var(--mute);display:block}\n"
".scroll{overflow-x:auto}td:first-child{min-width:200px}.barcell{width:13%;min-width:100px}.sparkcell{width:134px}.errcell{width:46%}"
".bar{display:block;width:100%;height:9px;border-radius:5px;margin-top:7px}"
".spark{display:block;width:110px;height:26px}\n"
".track{fill:var(--track)}.waiting{fill:var(--waiting)}.active{fill:var(--active)}"
".delayed{fill:var(--delayed)}.blocked{fill:var(--blocked)}rect.failed{fill:var(--failed)}"
".completed{fill:var(--completed)}.cancelled{fill:var(--mute)}\n"
".line{fill:none;stroke-width:1.75;vector-effect:non-scaling-stroke;stroke-linejoin:round;"
"stroke-linecap:round}.grid{stroke:var(--rule);vector-effect:non-scaling-stroke}.hit{fill:transparent}"
".hit:hover{fill:var(--mute);fill-opacity:.15}\n"
".s-waiting{stroke:var(--waiting)}.s-enqueued{stroke:var(--enqueued);stroke-dasharray:5 4}"
".s-completed{stroke:var(--completed)}.s-failed{stroke:var(--failed)}.s-p95{stroke:var(--p95)}"
".s-wait{stroke:var(--waiting)}\n"
".k-waiting::before,.k-wait::before{background:var(--waiting)}.k-active::before{background:var(--active)}"
".k-delayed::before,.k-p95::before{background:var(--delayed)}.k-blocked::before{background:var(--blocked)}"
".k-failed::before{background:var(--failed)}.k-completed::before{background:var(--completed)}"
".k-enqueued::before{background:repeating-linear-gradient(90deg,var(--enqueued) 0 4px,transparent 4px 6px)}\n"
".charts{display:grid;grid-template-columns:1fr 1fr;gap:16px}.chart{margin:0;padding:16px 20px;min-width:0}"
"figcaption span{color:var(--mute);font-size:13.5px}.plot{display:grid;grid-template-columns:auto 1fr;"
"gap:0 8px;margin-top:12px}.plot svg{width:100%;height:200px;display:block;overflow:visible}"
".ys,.xs{display:flex;justify-content:space-between;font-size:12.5px;color:var(--mute);line-height:1}"
".ys{flex-direction:column;text-align:right;height:196.5px;margin-top:1.5px}"
".xs{grid-column:2;margin-top:2px}\n"
"details{margin-top:4px}section>details{margin-top:8px}section>details .alerts{margin-top:8px}summary{cursor:pointer;color:var(--link);font-size:13.5px}"
"details code{display:block;white-space:pre-wrap;margin-top:4px}.text{white-space:pre-wrap}\n"
"footer{margin:40px auto;color:var(--mute);font-size:13.5px}\n";

static const char narrow[] =
"@media screen and (max-width:1000px){.charts{grid-template-columns:1fr}}\n"
"@media screen and (max-width:640px){.sums{grid-template-columns:repeat(3,1fr)}}\n"
"@media screen and (max-width:900px){main,header,footer{padding-left:14px;padding-right:14px}header{padding-top:22px}"
"header h1{font-size:23px}.sums{gap:8px}.sums div{padding:10px 12px}.sums dd{font-size:20px}"
".sums dt{font-size:12.5px}"
"nav{padding:0 14px;font-size:15px;gap:0 18px}a{padding:9px 0}"
"table,tbody,td{display:block;width:auto}thead{position:absolute;width:1px;height:1px;overflow:hidden;"
"clip-path:inset(50%)}"
"tbody tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(92px,1fr));grid-auto-flow:dense;gap:6px 12px;padding:14px 16px}"
"tbody tr:first-child{border-top:0}td,td:first-child,td:last-child{padding:0;min-width:0;grid-column:1/-1}"
"td[data-l]{display:flex;gap:12px;justify-content:space-between;text-align:right;min-width:0}"
"td[data-l]::before{content:attr(data-l);color:var(--mute);text-align:left;flex:none;font-size:13px;font-weight:400}"
"td.n[data-l]{display:block;grid-column:auto;text-align:left}td.n[data-l]::before{display:block;line-height:1.2}"
"td.none[data-l]{display:none}"
"td.wide[data-l]{display:block;text-align:left}td.wide[data-l]::before{display:none}"
"td.barcell,td.errcell,td.sparkcell{width:auto}.bar{margin:0}.spark{width:60%}"
".alerts li{padding:12px 16px;grid-template-columns:minmax(0,1fr)}summary{padding:6px 0}"
".chart{padding:14px 16px}.n{white-space:normal}}\n"
"@media print{:root{color-scheme:light;--bg:#fff;--mute:#444}body *{font-size:10px!important}h1,h1 *{font-size:20px!important}"
"h2,h2 small{font-size:13px!important}.sums dd{font-size:16px!important}main,header,footer{max-width:none;padding:0}"
".card{border-color:#bbb}.sums{gap:8px}.sums div{padding:6px 10px}h2{margin:20px 0 8px}th,td{padding:4px}"
"th:first-child,td:first-child{padding-left:10px;min-width:96px}.barcell{min-width:50px}.sparkcell{width:64px}"
"th:last-child,td:last-child{padding-right:8px}.spark{width:52px;height:16px}.label,.ids{min-width:60px}.alerts li{padding:6px 10px;grid-template-columns:minmax(0,180px) minmax(0,1fr)}"
".plot svg{height:120px}.ys{height:118px}"
"tr,li,figure,.sums div{break-inside:avoid}h2{break-after:avoid}"
"nav{display:none}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}\n";

void
QueueHtmlHead(StringInfo out)
{
	appendStringInfoString(out, "<!DOCTYPE html>\n"
						   "<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n"
						   "<meta charset=\"utf-8\"/>\n"
						   "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';"
						   " style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\"/>\n"
						   "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
						   "<meta name=\"referrer\" content=\"no-referrer\"/>\n"
						   "<link rel=\"icon\" href=\"data:,\"/>\n<style>\n");
	appendStringInfoString(out, colours);
	appendStringInfoString(out, layout);
	appendStringInfoString(out, parts);
	appendStringInfoString(out, narrow);
	appendStringInfoString(out, "</style>\n");
}
